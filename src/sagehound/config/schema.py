"""The schema: every key, its default, its unit, and the rules that a value must follow.

YAML under ``conf/`` holds only what differs from one option to the next.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagehound.config.data import Augment, Data
from sagehound.config.fields import group, key
from sagehound.config.machine import Cache, Debugger, Features, Trainer
from sagehound.config.model import Backbone, Finetune, Head
from sagehound.config.optimization import Loss, Optimizer, Schedule


@dataclass
class Train:
    """Every setting of `python train.py`."""

    backbone: Backbone = group(Backbone)
    head: Head = group(Head)
    finetune: Finetune = group(Finetune)
    loss: Loss = group(Loss, is_open=True)
    optimizer: Optimizer = group(Optimizer, is_open=True)
    schedule: Schedule = group(Schedule)
    data: Data = group(Data)
    augment: Augment = group(Augment)
    trainer: Trainer = group(Trainer)
    features: Features = group(Features)
    cache: Cache = group(Cache)
    logger: dict[str, Any] = key("Lightning's loggers by a name of your choice, each with its _target_", {})
    callbacks: dict[str, Any] = key("Lightning's callbacks by a name of your choice, each with its _target_", {})
    debugger: Debugger | None = None
    results: str | None = key(
        "files of a run; scores: metrics, curves and config alone; null: all, in a sweep (-m) scores",
        None,
        choices=("all", "scores"),
    )
    artifact: bool = key(
        "write model.tar.gz, the file that is served; takes some seconds; never with results=scores", True
    )
    audit_only: bool = key("check the photos, write audit.json and splits.csv, and train nothing", False)
    seed: int = key("the same seed gives the same numbers on a CPU", 0, at_least=0, below=2**32)
    overwrite: bool = key(
        "first remove the files of an earlier run from hydra.run.dir, which is refused otherwise", False
    )
    best: str | None = key(
        "folder of a finished search: use its best hyperparameters, except those given beside it", None
    )
    resume: str | None = key("last (the newest run), a run's folder, or a checkpoint: continue it", None)

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.debugger and str(self.debugger.folder).startswith("s3:"):
            yield (
                f"debugger.folder={self.debugger.folder}: give a folder of this machine; a job on SageMaker has its "
                "own, which AWS puts into S3"
            )
        hooks = {"relu_input", "relu_output"}
        if self.trainer.compile and self.debugger and hooks & set(self.debugger.collections):
            yield (
                "trainer.compile=true: debugger.collections=[relu_input,relu_output] look between the layers, which "
                "compiled code does not allow: drop them, or set trainer.compile=false"
            )
        if self.resume and not Path(self.resume).exists():
            yield f"resume={self.resume}: no such run or checkpoint; give last, a run's folder, or a .ckpt file"
        if self.resume and self.audit_only:
            yield "audit_only=true trains nothing, so there is nothing to resume: drop audit_only or resume"
