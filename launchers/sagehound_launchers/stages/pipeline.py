"""`pipeline=sagemaker`: exports training, registry and batch predictions as a pipeline of SageMaker."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from sagehound.config import key
from sagehound.errors import ConfigError
from sagehound_launchers.config.stage import BEFORE_TRAINING, Stage

if TYPE_CHECKING:
    from sagehound_launchers.config import Launch


@dataclass
class Pipeline:
    """A pipeline of SageMaker with the steps of the command: training, registry=sagemaker, transform=sagemaker."""

    name: str = key("where it runs", MISSING, choices=("sagemaker",))
    pipeline: str = key("its name", "sagehound")
    start: bool = key("start it as well", False)

    def conflicts(self, cfg: "Launch") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if cfg.models:
            yield f"pipeline=sagemaker trains its model: drop model={cfg.models[0]}"


def refuse(cfg: "Launch", own: Pipeline, models: Sequence[str], folder: Path) -> None:
    """Refuse to run as one of several stages; the command exports the pipeline before Hydra starts.

    Raises:
        ConfigError: always.
    """
    raise ConfigError("pipeline=sagemaker must be on the command line, not in a config")


STAGE = Stage(
    "pipeline", Pipeline, BEFORE_TRAINING, refuse, remote=frozenset({"sagemaker"}),
    extra={"sagemaker": ("sagemaker", "boto3")},
)  # fmt: skip
