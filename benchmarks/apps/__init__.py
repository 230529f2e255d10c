"""The services that are measured."""
