"""Hydra's plugins: thin wrappers around sagehound_launchers. Hydra discovers this package."""
