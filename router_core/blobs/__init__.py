"""Where bytes live that are too large for a record."""
