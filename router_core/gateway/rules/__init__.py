"""Routing rules: which models a call may go to, by what is known about it."""
