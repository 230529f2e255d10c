"""Queues, one file for each technology."""
