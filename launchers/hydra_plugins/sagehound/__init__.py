"""Thin shells that Hydra finds by their place; the work is in sagehound_launchers."""
