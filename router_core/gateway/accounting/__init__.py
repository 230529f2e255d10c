"""What calls used and cost."""
