"""Job stores, one file for each technology."""
