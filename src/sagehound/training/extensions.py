"""Additions to Lightning's Trainer: the group ``callbacks``, and ``trainer.extra``."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import profilers
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from sagehound.config import Train
from sagehound.config.targets import TARGET, check_arguments, describe, resolve
from sagehound.errors import ConfigError
from sagehound.system import console
from sagehound.training.callbacks import early_stopping

# arguments of Lightning's Trainer that Sagehound sets, and what to use instead
_OURS = {
    "accelerator": "use trainer.accelerator",
    "strategy": "use trainer.devices: several are trained with DDP",
    "devices": "use trainer.devices",
    "num_nodes": "use trainer.num_nodes",
    "precision": "use trainer.precision",
    "logger": "use the group logger: logger=[tensorboard,csv]",
    "callbacks": "use the group callbacks: callbacks.NAME._target_=...",
    "max_epochs": "use trainer.max_epochs",
    "accumulate_grad_batches": "use trainer.accumulate",
    "gradient_clip_val": "use trainer.gradient_clip",
    "default_root_dir": "use hydra.run.dir",
    "enable_checkpointing": "the best epoch is read from its checkpoint; results=scores keeps none",
    "enable_progress_bar": "Sagehound draws the bar, on a terminal only",
    "use_distributed_sampler": "the photos are shared out by Sagehound's own sampler",
    "plugins": "Sagehound's own writes the checkpoints",
    "barebones": "it switches off the checkpoints and the metrics",
    "max_time": "a run is whole epochs: stop it with Ctrl-C, and continue it with resume=last",
    "max_steps": "a run is whole epochs: use trainer.max_epochs, and trainer.extra.limit_train_batches",
    "min_steps": "a run is whole epochs: use trainer.extra.min_epochs",
    "check_val_every_n_epoch": "every epoch is validated, to find the best one",
    "reload_dataloaders_every_n_epochs": "use finetune=gradual, which switches the photos by itself",
    "limit_test_batches": "all test photos are predicted after the training",
    "limit_predict_batches": "all test photos are predicted after the training",
}
_NOT_ZERO = {
    "limit_train_batches": "nothing would be trained",
    "limit_val_batches": "the best epoch is found by the valid photos",
}
_PROFILERS = {
    "simple": profilers.SimpleProfiler,
    "advanced": profilers.AdvancedProfiler,
    "pytorch": profilers.PyTorchProfiler,
}


@dataclass(frozen=True)
class Extensions:
    """The user's callbacks and arguments of Lightning's Trainer, checked."""

    callbacks: list[Callback]
    trainer: dict[str, Any]  # arguments of Lightning's Trainer

    @property
    def is_dev_run(self) -> bool:
        """Whether Lightning runs a few batches only and writes no checkpoint."""
        return bool(self.trainer.get("fast_dev_run"))

    def tell_dev_run(self, folder: Path) -> None:
        """Print what a run with fast_dev_run has done."""
        left = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_file() and p.name[0] != "."))
        console.info(
            f"trainer.extra.fast_dev_run: training and validation work; there is no checkpoint, so nothing is tested, "
            f"logged or packed. {folder} has {left}"
        )


def of(cfg: Train, folder: Path) -> Extensions:
    """The callbacks and the arguments of Lightning's Trainer that the config names.

    Args:
        cfg: the run's config.
        folder: of the run; nothing is written there yet.

    Raises:
        ConfigError: there is no such class or argument, Sagehound sets the argument, or a class or Lightning refuses
            it.
    """
    callbacks = [_callback(name, node, folder) for name, node in cfg.callbacks.items()]
    _refuse_twins(cfg, callbacks)
    arguments = _trainer_arguments(cfg.trainer.extra, folder)
    if callbacks or arguments:
        _try_out(callbacks, arguments)
    return Extensions(callbacks, arguments)


def _callback(name: str, node: Any, folder: Path) -> Callback:  # noqa: ANN401 - whatever the user gave
    where = f"callbacks.{name}"
    made = resolve(node, where)()
    if not isinstance(made, Callback):
        raise ConfigError(f"{where}: {type(made).__name__} is not a lightning.pytorch.callbacks.Callback")
    if isinstance(made, ModelCheckpoint):
        own = folder / "checkpoints"
        if made.dirpath is None:
            made.dirpath = str(own / name)
        elif Path(made.dirpath).resolve() == own.resolve():
            raise ConfigError(
                f"{where}.dirpath={made.dirpath}: best.ckpt and last.ckpt of the run are there: drop dirpath, which "
                f"then is checkpoints/{name}, or give another"
            )
    return made


def _refuse_twins(cfg: Train, callbacks: list[Callback]) -> None:
    """Refuse two callbacks with the same state key in a checkpoint."""
    names = list(cfg.callbacks)
    known = {}
    if cfg.trainer.patience is not None:
        known[early_stopping(cfg.trainer).state_key] = f"trainer.patience={cfg.trainer.patience}"
    for name, callback in zip(names, callbacks, strict=True):
        is_stateful = type(callback).state_dict is not Callback.state_dict
        if is_stateful and callback.state_key in known:
            raise ConfigError(
                f"callbacks.{name}: {known[callback.state_key]} does the same, and a checkpoint could not tell them "
                "apart: drop one of them"
            )
        known[callback.state_key] = f"callbacks.{name}"


def _trainer_arguments(extra: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Check ``trainer.extra`` by the signature of Lightning's Trainer, and build the objects that it names."""
    arguments = {str(key): value for key, value in extra.items()}
    for key, value in arguments.items():
        if key in _OURS:
            raise ConfigError(f"trainer.extra.{key}: Sagehound sets it: {_OURS[key]}")
        for near in difflib.get_close_matches(key, _OURS, n=1, cutoff=0.85):
            raise ConfigError(f"trainer.extra.{key}: did you mean {near}? Sagehound sets it: {_OURS[near]}")
        check_arguments(pl.Trainer, {key: value}, "trainer.extra", named=list(_OURS))
        if key in _NOT_ZERO and value == 0:
            raise ConfigError(f"trainer.extra.{key}={value}: {_NOT_ZERO[key]}")
        if isinstance(value, Mapping) and TARGET in value:
            arguments[key] = resolve(value, f"trainer.extra.{key}")()
    profiler = arguments.get("profiler")
    if isinstance(profiler, str) and profiler in _PROFILERS:  # Lightning's message goes to a silent log
        arguments["profiler"] = _PROFILERS[profiler](dirpath=folder, filename="profile")
    return arguments


def _try_out(callbacks: list[Callback], arguments: dict[str, Any]) -> None:
    """Let Lightning check the values, before any photo is read."""
    alone: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "callbacks": list(callbacks),
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
        "enable_model_summary": False,
        "enable_progress_bar": False,
    }
    try:
        pl.Trainer(**(alone | arguments))
    except Exception as error:  # errors of the user's classes too
        raise refused(error) from error


def refused(error: Exception) -> ConfigError:
    """The message for callbacks or arguments that Lightning's Trainer refuses."""
    return ConfigError(f"trainer.extra or callbacks, which Lightning refuses: {describe(error)}")
