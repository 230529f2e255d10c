"""Deploying a service: to RunPod through its REST API, to AWS through SAM."""
