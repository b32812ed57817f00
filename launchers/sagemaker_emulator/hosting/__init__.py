"""Models, endpoints and their containers."""
