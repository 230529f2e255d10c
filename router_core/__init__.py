"""router-core: write a Python function once, serve it anywhere, with durable jobs for long work."""
