"""Fine-tune an image classifier on your own folder of photos.

``train``, ``launch``, ``load`` and ``predict`` are the Python form of the command ``sagehound``. ``Classifier`` and
``PhotoDataModule`` are for your own Lightning Trainer.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sagehound.api import launch as launch
    from sagehound.api import train as train
    from sagehound.cli.predictions import Remote as Remote
    from sagehound.cli.predictions import predict as predict
    from sagehound.data.datamodule import PhotoDataModule as PhotoDataModule
    from sagehound.data.folders import Photo as Photo
    from sagehound.errors import ConfigError as ConfigError
    from sagehound.errors import InputError as InputError
    from sagehound.errors import SagehoundError as SagehoundError
    from sagehound.models.classifier import Classifier as Classifier
    from sagehound.runs.run import Run as Run
    from sagehound.runs.trained_model import Model as Model
    from sagehound.runs.trained_model import Prediction as Prediction
    from sagehound.runs.trained_model import load as load

# the module of each public name; it is imported at first use, because importing torch takes seconds
_PUBLIC = {
    "train": "api",
    "launch": "api",
    "Run": "runs.run",
    "load": "runs.trained_model",
    "predict": "cli.predictions",
    "Remote": "cli.predictions",
    "Model": "runs.trained_model",
    "Prediction": "runs.trained_model",
    "Classifier": "models.classifier",
    "PhotoDataModule": "data.datamodule",
    "Photo": "data.folders",
    "SagehoundError": "errors",
    "ConfigError": "errors",
    "InputError": "errors",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - of any public name
    """Import a public name, or read ``__version__``."""
    if name == "__version__":
        from importlib.metadata import version

        return version("sagehound")
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
