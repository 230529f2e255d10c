"""Neutral request and response types, streams, files and the error shape."""
