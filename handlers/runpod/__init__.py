"""The RunPod serverless worker: ``python -m handlers.runpod module:router``."""
