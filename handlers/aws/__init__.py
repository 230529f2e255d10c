"""AWS Lambda: one entry for HTTP, queues, schedules and direct calls."""
