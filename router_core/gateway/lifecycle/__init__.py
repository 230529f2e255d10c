"""Endpoints that sleep: waking, putting to sleep, and what they are doing."""
