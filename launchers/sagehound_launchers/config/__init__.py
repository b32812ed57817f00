"""The schema of `python launch.py`: that of training, what belongs to AWS, searches, and the stages."""

from sagehound_launchers.config.aws import Aws, LaunchData, LaunchTrainer
from sagehound_launchers.config.schema import Launch, LaunchWithStages, checked, names_with_model, register
from sagehound_launchers.config.search import Hpo

__all__ = [
    "Aws",
    "Hpo",
    "Launch",
    "LaunchData",
    "LaunchTrainer",
    "LaunchWithStages",
    "checked",
    "names_with_model",
    "register",
]
