"""Imports what the commands import, as they do it themselves; see forked.py."""

from sagehound.system.imports import importing

with importing():
    import sagehound_launchers.search.loop  # noqa: F401
