"""Gateways and what stands behind them, each in a process of its own, for the gateway benchmarks."""
