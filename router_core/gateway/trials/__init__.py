"""Trying models on real traffic: staged rollouts and experiments."""
