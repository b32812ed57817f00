"""Builds Lightning's Trainer from a config, and fits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from sagehound.config import Train
from sagehound.config.targets import is_raised_in
from sagehound.data.datamodule import PhotoDataModule
from sagehound.debugger.evaluator import Evaluator
from sagehound.evaluation import tensorboard
from sagehound.models.classifier import Classifier
from sagehound.profiler.times import Times
from sagehound.system import hardware
from sagehound.training import extensions, spawned
from sagehound.training.callbacks import AtomicFiles, EachEpoch, EpochEnd, KeepConfig, make_callbacks
from sagehound.training.progress import LearningRate


def fit(
    model: Classifier,
    data: PhotoDataModule,
    machine: hardware.Compute,
    log: Sequence[Logger],
    cfg: Train,
    folder: Path,
    each_epoch: EpochEnd | None = None,
    given: extensions.Extensions | None = None,
    evaluator: Evaluator | None = None,
    times: Times | None = None,
) -> None:
    """Train; writes best.ckpt and last.ckpt.

    Raises:
        ConfigError: Lightning refuses the combination of callbacks, loggers and trainer.extra.
    """
    given = given or extensions.of(cfg, folder)
    arguments = _arguments(cfg, folder, machine, data.head_alone)
    arguments["logger"] = list(log) or False
    arguments["callbacks"] = [*_callbacks(cfg, folder, each_epoch, evaluator), *given.callbacks]
    if times and times.steps:
        arguments |= {"profiler": times.steps, "callbacks": [*arguments["callbacks"], *times.callbacks()]}
    try:
        trainer = pl.Trainer(**(arguments | given.trainer))
        trainer.fit(model, data, ckpt_path=cfg.resume, weights_only=True)
    except (MisconfigurationException, ValueError) as error:
        if isinstance(error, ValueError) and not (given.trainer and is_raised_in(error, "lightning")):
            raise
        raise extensions.refused(error) from error


def _arguments(cfg: Train, folder: Path, machine: hardware.Compute, head_alone: bool) -> dict[str, Any]:
    """The arguments of Lightning's Trainer that Sagehound sets."""
    t = cfg.trainer
    return {
        "accelerator": machine.accelerator,
        "devices": machine.devices,
        "num_nodes": t.num_nodes,
        "precision": "32-true" if head_alone else machine.precision,
        "strategy": spawned.strategy(machine.strategy),
        "max_epochs": t.max_epochs,
        "gradient_clip_val": t.gradient_clip,
        "accumulate_grad_batches": t.accumulate,
        "default_root_dir": folder,
        "log_every_n_steps": 5,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,  # the loaders divide the photos among processes themselves
        "enable_model_summary": False,
        "plugins": [AtomicFiles(), *hardware.environment()],
        "enable_progress_bar": False,  # our callbacks print progress
    }


def _callbacks(cfg: Train, folder: Path, each_epoch: EpochEnd | None, evaluator: Evaluator | None) -> list[Callback]:
    """Sagehound's own callbacks."""
    callbacks = [
        *make_callbacks(cfg.trainer, folder / "checkpoints", keep_last=cfg.results != "scores"),
        tensorboard.SharedCharts(),
        LearningRate(),
        KeepConfig(cfg),
    ]
    if each_epoch:
        callbacks.append(EachEpoch(each_epoch))
    if cfg.debugger:
        from sagehound.debugger.hook import TensorHook

        callbacks.append(TensorHook(cfg.debugger, folder, evaluator))
    return callbacks
