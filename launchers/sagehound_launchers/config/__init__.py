"""The keys of `python launch.py`: those of training, of AWS and of searches. Each stage has its own."""

from sagehound_launchers.config.aws_keys import Aws, LaunchData, LaunchTrainer
from sagehound_launchers.config.launch_keys import Launch
from sagehound_launchers.config.search_keys import Hpo

__all__ = ["Aws", "Hpo", "Launch", "LaunchData", "LaunchTrainer"]
