"""Event streams on their way through: held back, watched, ended."""
