"""Check a set of photos: suspicious labels, near-duplicates, outliers, poor photos, and what more photos would add.

sagehound doctor data.root=PATH                                your photos: split/class/photo or class/photo
sagehound doctor data.root=PATH backbone=efficientnet_lite0    with the features of this backbone
sagehound train data=folder data.root=PATH data.exclude=suspects.csv    train without the photos that you dropped

It writes doctor.html, suspects.csv and doctor.json, and changes no photo. The settings are those of `sagehound train`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sagehound.cli import command
from sagehound.config import register, typed
from sagehound.config.overrides import override_key
from sagehound.system import interrupts
from sagehound.system.imports import importing
from sagehound.system.project import conf_folder


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")
def main(cfg: DictConfig) -> Any:  # noqa: ANN401 - what Hydra's sweepers take
    """Examine the photos with the composed config."""
    with command.job_errors():
        config = typed(cfg)
        with importing():
            from sagehound.doctor.examine import examine  # imports torch, so only after all checks

        interrupts.restore_keyboard_interrupt()
        return examine(config, Path(HydraConfig.get().runtime.output_dir), command.given_overrides())


def with_folder(argv: Sequence[str]) -> list[str]:
    """A command line with data=folder, unless it chooses another source of photos."""
    chosen = {override_key(word) for word in argv if "=" in word}
    return [*argv] if chosen & {"data", "experiment"} else ["data=folder", *argv]


def run() -> None:
    """`sagehound doctor` with ``sys.argv``."""
    register()  # a program may have registered launch.py's schema before
    command.run(main, __doc__ or "")
