"""What the gateway is configured with: files in the forms of Albert, and ours beside them."""

from router_core.gateway.config.load import load_config, parse_config, read_file

__all__ = ["load_config", "parse_config", "read_file"]
