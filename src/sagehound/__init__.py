"""Fine-tune an image classifier on your own folder of photos."""

from typing import Any


def __getattr__(name: str) -> Any:  # noqa: ANN401 - of any attribute
    """``__version__``, which is looked up only where it is wanted: that takes longer than this import."""
    if name == "__version__":
        from importlib.metadata import version

        return version("sagehound")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
