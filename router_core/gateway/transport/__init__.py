"""HTTP to the upstreams: a pool of connections of our own."""
