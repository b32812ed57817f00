"""Lightning's Trainer, as a config wants it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from sagehound import compute, extensions, tensorboard
from sagehound.callbacks import AtomicFiles, EachEpoch, EpochEnd, KeepConfig, make_callbacks
from sagehound.classifier import Classifier
from sagehound.config import Train
from sagehound.data.datamodule import PhotoDataModule
from sagehound.loggers import LearningRate
from sagehound.targets import is_raised_in


def fit(
    model: Classifier,
    data: PhotoDataModule,
    machine: compute.Compute,
    log: Sequence[Logger],
    cfg: Train,
    folder: Path,
    each_epoch: EpochEnd | None = None,
    given: extensions.Extensions | None = None,
) -> None:
    """Train; best.ckpt and last.ckpt are left beside each other.

    Raises:
        ConfigError: Lightning refuses how callbacks, loggers and trainer.extra go together.
    """
    given = given or extensions.of(cfg, folder)
    arguments = _arguments(cfg, folder, machine, data.head_alone)
    arguments["logger"] = list(log) or False
    arguments["callbacks"] = [*_callbacks(cfg, folder, each_epoch), *given.callbacks]
    try:
        trainer = pl.Trainer(**(arguments | given.trainer))
        trainer.fit(model, data, ckpt_path=cfg.resume, weights_only=True)
    except (MisconfigurationException, ValueError) as error:
        if isinstance(error, ValueError) and not (given.trainer and is_raised_in(error, "lightning")):
            raise
        raise extensions.refused(error) from error


def _arguments(cfg: Train, folder: Path, machine: compute.Compute, head_alone: bool) -> dict[str, Any]:
    """What Sagehound sets of Lightning's Trainer."""
    t = cfg.trainer
    return {
        "accelerator": machine.accelerator,
        "devices": machine.devices,
        "num_nodes": t.num_nodes,
        "precision": "32-true" if head_alone else machine.precision,
        "strategy": machine.strategy,
        "max_epochs": t.max_epochs,
        "gradient_clip_val": t.gradient_clip,
        "accumulate_grad_batches": t.accumulate,
        "default_root_dir": folder,
        "log_every_n_steps": 5,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,  # the photos' own order is made for several processes
        "enable_model_summary": False,
        "plugins": [AtomicFiles(), *compute.environment()],
        "enable_progress_bar": False,  # the callbacks print
    }


def _callbacks(cfg: Train, folder: Path, each_epoch: EpochEnd | None) -> list[Callback]:
    """What happens beside the training steps, but for the user's own callbacks."""
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

        callbacks.append(TensorHook(cfg.debugger, folder))
    return callbacks
