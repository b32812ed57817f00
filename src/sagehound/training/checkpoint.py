"""Reads checkpoints: the state of a run to resume, and the best weights."""

import io
import math
import pickle
from pathlib import Path
from typing import Any

import torch

from sagehound.config import Train, as_dict
from sagehound.errors import ConfigError, InputError
from sagehound.models.classifier import Classifier
from sagehound.storage.atomic import replacing

INTERPOLATED = "interpolated"  # in best.ckpt, if its weights are not those of an epoch
# keys that weights, optimizer and the order of photos depend on: a resume must not change them
_FIXED = (
    "backbone.name",
    "head",
    "finetune",
    "loss",
    "optimizer",
    "schedule",
    "seed",
    "data.batch_size",
    "data.sampling",
    "data.image_size",
    "trainer.monitor",
    "trainer.ema",
    "features.views",
)
# earlier versions stored the optimizers' defaults, which are null today
_OWN_DEFAULTS = {"optimizer.eps": 1e-8, "optimizer.betas": [0.9, 0.999]}
_NEW = {"finetune.start"}  # keys that earlier versions did not have
_KEYS = {"state_dict", "optimizer_states", "epoch", "callbacks", "config", "classes"}


def read(cfg: Train) -> dict[str, Any]:
    """The checkpoint that ``cfg.resume`` names, if it fits this config.

    Raises:
        InputError: it is not a checkpoint.
        ConfigError: a setting that may not change was changed.
    """
    try:
        checkpoint = torch.load(str(cfg.resume), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"resume={cfg.resume}: no checkpoint, or a broken one; give another") from error
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= _KEYS or not _is_well_formed(checkpoint):
        raise InputError(f"resume={cfg.resume}: not a checkpoint of a run; give a run's checkpoints/last.ckpt")
    before, wanted = checkpoint["config"], as_dict(cfg)
    for key in _FIXED:
        group, _, name = key.partition(".")
        old, new = before.get(group), wanted[group]
        if group not in before or (name and name not in old):  # of an earlier version
            continue
        for leaf in [name] if name else {**old, **new} if isinstance(new, dict) else [""]:
            was, now = (old.get(leaf), new.get(leaf)) if leaf else (old, new)
            full = f"{group}.{leaf}".rstrip(".")
            if full in _NEW and leaf not in old:
                continue
            if was != now and not (now is None and was == _OWN_DEFAULTS.get(full, now)):
                was, now = ("null" if value is None else value for value in (was, now))
                raise ConfigError(
                    f"{full}={now}: the run that is resumed has {full}={was}; keep it, or start a new run"
                )
    if INTERPOLATED in checkpoint:
        raise InputError(
            f"resume={cfg.resume}: its weights were interpolated after the training: give the run's "
            "checkpoints/last.ckpt"
        )
    solved = cfg.finetune.head_epochs if checkpoint.get("has_solved_head") else 0  # epochs that the solution replaces
    if checkpoint["epoch"] >= cfg.trainer.max_epochs - solved:
        raise ConfigError(
            f"trainer.max_epochs={cfg.trainer.max_epochs}: the run that is resumed is in epoch "
            f"{checkpoint['epoch'] + solved + 1}; give that many or more"
        )
    return dict(checkpoint)


def _is_well_formed(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint has the values that a run writes. Somebody else may have written it."""
    config, callbacks, classes = checkpoint["config"], checkpoint["callbacks"], checkpoint["classes"]
    return (
        isinstance(checkpoint["epoch"], int)
        and isinstance(config, dict)
        and all(isinstance(config.get(key.partition(".")[0], {}), dict) for key in _FIXED if key != "seed")
        and isinstance(callbacks, dict)
        and all(isinstance(state, dict) for state in callbacks.values())
        and isinstance(classes, list)
        and all(isinstance(name, str) for name in classes)
        and isinstance(checkpoint["state_dict"], dict)
    )


def check_classes(cfg: Train, checkpoint: dict[str, Any], classes: list[str]) -> None:
    """Check that a checkpoint has these classes.

    Raises:
        InputError: it has other classes.
    """
    if checkpoint["classes"] != classes:
        other = sorted(set(checkpoint["classes"]) ^ set(classes))
        raise InputError(
            f"resume={cfg.resume} was trained with other classes than these photos have: {', '.join(other[:5])}"
        )


def ended_early(checkpoint: dict[str, Any], patience: int | None) -> bool:
    """Whether early stopping had ended the run, and would end it again."""
    waited = [c["wait_count"] for c in checkpoint["callbacks"].values() if "wait_count" in c]
    return any(w >= (patience or math.inf) for w in waited)


def restore(model: Classifier, checkpoint: dict[str, Any]) -> int:
    """Load a checkpoint's weights into the model; returns its epoch, from 0."""
    load_weights(
        model, checkpoint.get("current_model_state", checkpoint["state_dict"])
    )  # with EMA, these are the weights that are trained
    if checkpoint.get("has_solved_head"):
        model.start_solved()
    return int(checkpoint["epoch"])


def load_best(model: Classifier, best: Path) -> int:
    """Load the weights of the best epoch, by ``trainer.monitor``; returns their epoch, from 1.

    Raises:
        InputError: there are none, because a resumed checkpoint was copied without them.
    """
    if not best.exists():
        raise InputError(f"{best} is missing: copy it there from the folder of the run that is resumed")
    checkpoint = torch.load(best, map_location="cpu", weights_only=True)
    load_weights(model, checkpoint["state_dict"])
    return int(checkpoint["epoch"]) + 1


def set_temperature(best: Path, temperature: float) -> None:
    """Write the temperature into a checkpoint, so that whoever loads it gets calibrated probabilities.

    Raises:
        SagehoundError: the disk is full.
    """
    checkpoint = torch.load(best, map_location="cpu", weights_only=True)
    if checkpoint.get("temperature", 1.0) != temperature:
        save(checkpoint | {"temperature": temperature}, best)


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a temporary file beside the old checkpoint, then replace it."""
    content = io.BytesIO()
    torch.save(checkpoint, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_weights(model: Classifier, state: dict[str, Any]) -> None:
    """Load the weights and buffers of the backbone and the head."""
    weights = {k: v for k, v in state.items() if k.startswith(("backbone.", "head."))}
    model.load_state_dict(weights, strict=False)
