"""The schema: every key, its default, its unit, and the rules for its value.

The YAML files under ``conf/`` contain only values that differ from these defaults.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagehound.config.data_keys import Augment, Data
from sagehound.config.fields import group, key
from sagehound.config.machine_keys import Cache, Debugger, Features, Profiler, Trainer
from sagehound.config.model_keys import Backbone, Finetune, Head
from sagehound.config.optimization_keys import Loss, Optimizer, Schedule


@dataclass
class Train:
    """All settings of `python train.py`."""

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
    logger: dict[str, Any] = key("Lightning loggers, each under a name of your choice with its _target_", {})
    callbacks: dict[str, Any] = key("Lightning callbacks, each under a name of your choice with its _target_", {})
    debugger: Debugger | None = None
    profiler: Profiler | None = None
    results: str | None = key(
        "files that a run writes; tables: no plots and no report; scores: only metrics, curves and config; null: all, "
        "or scores in a sweep (-m)",
        None,
        choices=("all", "tables", "scores"),
    )
    artifact: bool = key(
        "write model.tar.gz, the file for serving, which takes some seconds; not written with results=scores", True
    )
    artifact_precision: str = key(
        "numbers of the network that is served; int8 is kept if it gives 99.5 % of the test photos the same class and "
        "is 1.3 times as fast here, otherwise fp32 is",
        "fp32",
        choices=("fp32", "int8"),
    )
    report: bool = key(
        "write report.html, which shows the run in one page, in two seconds; only with results=all", True
    )
    calibrate: bool = key(
        "divide the logits by a temperature that is fitted on the valid photos, so that a probability is as high as "
        "the share of right predictions; the predicted classes do not change",
        True,
    )
    audit_only: bool = key("check the photos and write audit.json and splits.csv, without training", False)
    seed: int = key("random seed; the same seed gives the same numbers on a CPU", 0, at_least=0, below=2**32)
    overwrite: bool = key(
        "first remove the files of an earlier run from hydra.run.dir; false: refuse a folder that has some", False
    )
    best: str | None = key(
        "folder of a finished search, whose best hyperparameters are used; other overrides take precedence", None
    )
    resume: str | None = key("run to continue: last (the newest run), a run's folder, or a checkpoint", None)

    @property
    def balances_classes(self) -> bool:
        """Whether a setting gives rare classes more influence."""
        is_weighted = self.loss.class_weights is not None or bool(self.loss.logit_adjustment)
        return is_weighted or self.data.sampling == "balanced"

    def conflicts(self, cfg: "Train") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.debugger and str(self.debugger.folder).startswith("s3:"):
            yield (
                f"debugger.folder={self.debugger.folder}: give a folder of this machine; a job on SageMaker has its "
                "own, which AWS uploads to S3"
            )
        hooks = {"relu_input", "relu_output"}
        if self.trainer.compile and self.debugger and hooks & set(self.debugger.collections):
            yield (
                "trainer.compile=true: debugger.collections=[relu_input,relu_output] read tensors between layers, "
                "which compiled code does not expose: drop them, or set trainer.compile=false"
            )
        if self.resume and not Path(self.resume).exists():
            yield f"resume={self.resume}: no such run or checkpoint; give last, a run's folder, or a .ckpt file"
        if self.resume and self.audit_only:
            yield "audit_only=true trains nothing, so there is nothing to resume: drop audit_only or resume"
