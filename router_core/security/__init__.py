"""Who may do what, and where we may connect to."""
