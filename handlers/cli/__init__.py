"""The command line, ``router-core``."""
