"""Runs at the start of every Python whose PYTHONPATH has this folder: see ``amazon_addresses``."""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

_HERE = str(Path(__file__).parent)
sys.path.insert(0, _HERE)
import amazon_addresses  # type: ignore[import-not-found] # noqa: E402 - from this folder

sys.path[:] = [path for path in sys.path if path != _HERE]
amazon_addresses.redirect_when_imported()

# the sitecustomize that this one hides, such as Debian's
_other = PathFinder.find_spec("sitecustomize", sys.path)
if _other and _other.loader:
    _module = module_from_spec(_other)
    _other.loader.exec_module(_module)
