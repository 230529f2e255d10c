"""What workspaces, callers and models may spend."""
