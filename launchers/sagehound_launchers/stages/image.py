"""`image=ecr`: builds and pushes the image of jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from sagehound.config import key
from sagehound_launchers.config.stage import BEFORE_TRAINING, Stage

if TYPE_CHECKING:
    from sagehound_launchers.config import Launch


@dataclass
class Image:
    """The image that jobs and endpoints run in."""

    name: str = key("where it is stored", MISSING, choices=("ecr",))
    repository: str = key("its name in the registry", "sagehound")
    tag: str = key("its version in the registry", "latest")


def push(cfg: "Launch", image: Image, models: Sequence[str], folder: Path) -> None:
    """Build the project's image and push it."""
    from sagehound_launchers.sagemaker.image_build import push

    push(cfg.aws, image.repository, image.tag)


STAGE = Stage("image", Image, BEFORE_TRAINING, push)
