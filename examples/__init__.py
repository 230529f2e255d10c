"""Services that do real work; ``make run`` serves them together."""
