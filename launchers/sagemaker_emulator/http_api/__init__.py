"""HTTP requests: from a client's bytes to an operation."""
