"""From a function's signature to a plan, once; from a request to its arguments, often."""
