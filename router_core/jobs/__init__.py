"""Durable jobs: record, transitions, runner, service and upkeep."""
