"""What happened: sums of calls by time, model and workspace."""
