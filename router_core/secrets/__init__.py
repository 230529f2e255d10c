"""Secrets that stand somewhere else: files, AWS, Vault. Settings and configurations only name them."""
