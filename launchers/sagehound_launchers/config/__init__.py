"""The keys of `python launch.py`: those of training, what belongs to AWS, and searches. Stages bring their own."""

from sagehound_launchers.config.aws import Aws, LaunchData, LaunchTrainer
from sagehound_launchers.config.schema import Launch
from sagehound_launchers.config.search import Hpo

__all__ = ["Aws", "Hpo", "Launch", "LaunchData", "LaunchTrainer"]
