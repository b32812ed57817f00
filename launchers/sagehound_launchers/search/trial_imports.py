"""Imports what training needs, once for all processes of a search; see trial_worker.py."""

from sagehound.system.imports import importing

with importing():
    import sagehound.training.train  # noqa: F401
