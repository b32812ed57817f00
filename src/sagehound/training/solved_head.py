"""Solves the linear head on cached features: the result of finetune=head, or the start of gradual and full."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sagehound.config import Optimizer, Train
from sagehound.data.datamodule import PhotoDataModule
from sagehound.models import features, logistic, losses
from sagehound.models.classifier import Classifier
from sagehound.storage.atomic import replacing
from sagehound.system import console, hardware

START = "start.ckpt"  # backbone and solved head, before the first step


def solve(
    model: Classifier, data: PhotoDataModule, cfg: Train, folder: Path, stopped_at: dict[str, Any] | None
) -> Train:
    """Solve the head, unless the run is resumed; returns the config of the training that follows.

    With finetune=head one epoch follows, with a learning rate of 0: it measures the head, and writes the history and
    the checkpoints. Before full and gradual the weights are stored for the interpolation at the end.

    Args:
        model: with its classes.
        data: with cached features, or the head is not solved.
        cfg: the run's config.
        folder: of the run.
        stopped_at: the checkpoint of a run that is resumed.
    """
    if not features.solves(cfg):
        return cfg
    if why := _unsuitable(data, cfg):
        console.info(f"head: {why}, so the optimizer trains it from random weights")
        return cfg
    is_result = cfg.finetune.name == "head"
    if stopped_at is None:
        _solve(model, data, cfg)
        if not is_result and cfg.finetune.interpolate and hardware.writes_results():
            _save(model, folder / "checkpoints" / START)
    elif is_result and stopped_at["config"]["trainer"]["max_epochs"] != 1:
        return cfg  # the head could not be solved when the run began
    model.head_is_solved = True
    if not is_result:
        return cfg
    model.optimizer, model.make_optimizer, model.optimizer_args = Optimizer("sgd", 0.0), None, {}
    return replace(cfg, trainer=replace(cfg.trainer, max_epochs=1))


def _unsuitable(data: PhotoDataModule, cfg: Train) -> str | None:
    """Why the head cannot be solved; None if it can."""
    if cfg.loss._target_ or cfg.loss.name != "cross_entropy":
        return f"loss={cfg.loss._target_ or cfg.loss.name} cannot be solved"
    if cfg.head.hidden:
        return f"head.hidden={cfg.head.hidden} cannot be solved"
    if cfg.finetune.name == "head":
        for key, value in (("head.dropout", cfg.head.dropout), ("features.views", cfg.features.views)):
            if value:
                return f"{key}={value:g} changes the features in every epoch"
    return None if data.features else "there are no cached features"


def _solve(model: Classifier, data: PhotoDataModule, cfg: Train) -> None:
    """Solve the head on the features of the train photos, and load it into the model."""
    assert data.features is not None
    begin = time.perf_counter()
    photos = data.photos.split("train")
    labels, n = torch.tensor(data.photos.labels(photos)), len(photos)
    scene = dict(zip((p.file for p in data.photos.photos), data.photos.scenes(), strict=True))
    solution = logistic.solve(
        torch.from_numpy(data.features.centre["train"]([(0, i) for i in range(n)])),
        labels,
        len(model.classes),
        weights=_weights(model, data, labels),
        smoothing=cfg.augment.label_smoothing,
        groups=[scene[p.file] for p in photos],
        seed=cfg.seed,
    )
    linear = model.head[-1]
    with torch.no_grad():
        linear.weight.copy_(solution.weight)
        linear.bias.copy_(solution.bias)
    console.info(
        f"head: solved on {n} photos in {time.perf_counter() - begin:.1f} s, penalty {solution.strength:.3g} by "
        f"{logistic.FOLDS}-fold cross-validation (loss {solution.losses[solution.strength]:.3g})"
    )


def _weights(model: Classifier, data: PhotoDataModule, labels: Tensor) -> Tensor:
    """The weight of each train photo in the loss, n: the photo's times its class's."""
    of_photos = data.photos.weights(data.photos.split("train"))
    weights = torch.tensor(of_photos, dtype=torch.float) if of_photos else torch.ones(len(labels))
    classes = losses.balanced(data.class_counts()) if model.class_weights == "balanced" else model.loss.weight
    return weights if classes is None else weights * classes[labels]


def _save(model: Classifier, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        torch.save({"state_dict": weights_of(model)}, temporary)


def weights_of(model: Classifier) -> dict[str, Tensor]:
    """The weights and statistics of backbone and head, by name."""
    return {k: v.detach().clone() for k, v in model.state_dict().items() if k.startswith(("backbone.", "head."))}
