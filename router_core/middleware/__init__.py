"""Layers around every call; ``stack`` fixes their order."""
