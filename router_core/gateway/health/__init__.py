"""Looking after deployments beside the traffic."""
