"""Imports what the commands import, as they do it themselves; see forked.py."""

import importlib

from sagehound.system.imports import importing

_IMPORTED = """
    boto3  encodings.idna  matplotlib.backends.backend_svg  optuna  rich.progress  s3fs  safetensors.numpy  stringprep
    scipy.ndimage  scipy.optimize  scipy.stats
    tensorboard.backend.event_processing.event_accumulator
    sagehound.artifact.export  sagehound.cli.compare_command  sagehound.cli.launch_command  sagehound.cli.main
    sagehound.cli.train_command  sagehound.serving.server  sagehound.training.train
    sagehound_launchers.launch  sagehound_launchers.search.loop
"""

with importing():
    for _name in _IMPORTED.split():
        importlib.import_module(_name)
