"""Where the tensors of a run are written."""

import itertools
import json
import os
from pathlib import Path

_SAGEMAKER = "/opt/ml/input/config/debughookconfig.json"  # SageMaker's copy of the request


def where(folder: str | None, run: Path) -> Path:
    """The folder of the config, or SageMaker's folder of tensors, or the run's debugger/tensors."""
    config = Path(os.environ.get("SMDEBUG_CONFIG_FILE_PATH", _SAGEMAKER))
    if folder:
        return Path(folder).expanduser()
    if config.exists():
        return Path(json.loads(config.read_text()).get("LocalPath", "/opt/ml/output/tensors"))
    return run / "debugger" / "tensors"


def unused(folder: Path) -> Path:
    """The first empty one of folder, folder-2, folder-3, ..."""
    others = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    return next(f for f in itertools.chain([folder], others) if not f.exists() or (f.is_dir() and not any(f.iterdir())))
