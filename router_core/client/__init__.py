"""Call a service's endpoints like functions."""
