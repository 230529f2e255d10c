"""Decorators that only record, path patterns, and the table that finds a route."""
