"""Solves the linear head on cached features: all of finetune=head solver=auto, and the start of gradual and full."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sagehound.config import Optimizer, Train
from sagehound.data.datamodule import PhotoDataModule
from sagehound.models import logistic, losses
from sagehound.models.classifier import Classifier
from sagehound.system import console, hardware
from sagehound.training import interpolation

_SMALL = 2**24  # multiplications of a step of L-BFGS; several threads would wait for each other


def starts(cfg: Train) -> bool:
    """Whether fine-tuning is to start from a solved head, if features can be cached."""
    return _wants_start(cfg) and not cfg.finetune.no_start(cfg)


def _wants_start(cfg: Train) -> bool:
    return cfg.finetune.name != "head" and cfg.finetune.start == "solved" and cfg.backbone.pretrained


def solve(
    model: Classifier, data: PhotoDataModule, cfg: Train, stopped_at: dict[str, Any] | None, checkpoints: Path
) -> Train:
    """Solve the head, unless the run is resumed; returns the config of the training that follows.

    With ``finetune.solver`` one epoch follows, with a learning rate of 0 and without debugger: it measures the head,
    and writes the history and the checkpoints. With gradual and full the whole model is trained from there (Kumar et
    al., "Fine-tuning can distort pretrained features and underperform out-of-distribution", ICLR 2022), and start.ckpt
    is written.

    Args:
        model: with its classes.
        data: with cached features; without, the optimizer trains the head.
        cfg: the run's config.
        stopped_at: the checkpoint of a run that is resumed.
        checkpoints: the run's folder for them.
    """
    if cfg.finetune.name != "head":
        return _start(model, data, cfg, checkpoints, is_new=stopped_at is None)
    if not cfg.finetune.solver:
        return cfg
    if stopped_at is None:
        if not data.features:
            console.info("head: there are no cached features, so the optimizer trains it")
            return cfg
        _solve(model, data, cfg)
    elif stopped_at["config"]["trainer"]["max_epochs"] != 1:
        return cfg  # the head could not be solved when the run began
    if cfg.debugger:
        console.info("debugger: a solved head has no training steps to watch, so it is off")
    model.optimizer, model.make_optimizer, model.optimizer_args = Optimizer("sgd", 0.0), None, {}
    return replace(cfg, trainer=replace(cfg.trainer, max_epochs=1), debugger=None)


def _start(model: Classifier, data: PhotoDataModule, cfg: Train, checkpoints: Path, *, is_new: bool) -> Train:
    """Solve the head from which fine-tuning starts. The solution replaces the head epochs of gradual."""
    if is_new and data.features and starts(cfg):
        _solve(model, data, cfg)
        model.start_solved()
        if hardware.writes_results():
            interpolation.write_start(model, data.photos, checkpoints)
    elif is_new and _wants_start(cfg):
        why = cfg.finetune.no_start(cfg) or "features that cannot be cached"
        console.info(f"head: it starts from random weights, because it cannot be solved with {why}")
    if not model.has_solved_head:
        return cfg
    epochs = cfg.trainer.max_epochs - cfg.finetune.head_epochs
    return replace(cfg, trainer=replace(cfg.trainer, max_epochs=epochs))


def _solve(model: Classifier, data: PhotoDataModule, cfg: Train) -> None:
    """Solve the head on the features of the train photos, and load it into the model."""
    assert data.features is not None
    begin = time.perf_counter()
    photos = data.photos.split("train")
    labels, n = torch.tensor(data.photos.labels(photos)), len(photos)
    scene = dict(zip((p.file for p in data.photos.photos), data.photos.scenes(), strict=True))
    features = torch.from_numpy(data.features.centre["train"]([(0, i) for i in range(n)]))
    with hardware.threads(1 if features.numel() * len(model.classes) < _SMALL else None):
        solution = logistic.solve(
            features,
            labels,
            len(model.classes),
            weights=_weights(model, data, cfg, labels),
            smoothing=cfg.augment.label_smoothing,
            groups=[scene[p.file] for p in photos],
            seed=cfg.seed,
        )
    linear, tau = model.head[-1], model.logit_adjustment
    adjustment = None if tau is None else losses.adjustment(data.class_counts(), tau)  # the bias has no penalty
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(solution.weight)
        linear.bias.copy_(solution.bias if adjustment is None else solution.bias - adjustment)
    console.info(
        f"head: solved on {n} photos in {time.perf_counter() - begin:.1f} s, penalty {solution.strength:.3g} by "
        f"{logistic.FOLDS}-fold cross-validation (loss {solution.losses[solution.strength]:.3g})"
    )


def _weights(model: Classifier, data: PhotoDataModule, cfg: Train, labels: Tensor) -> Tensor:
    """The weight of each train photo in the loss, n: the photo's times its class's."""
    of_photos = data.photos.weights(data.photos.split("train"))
    weights = torch.tensor(of_photos, dtype=torch.float) if of_photos else torch.ones(len(labels))
    is_balanced = model.class_weights == "balanced" or cfg.data.sampling == "balanced"
    assert isinstance(model.loss, losses.CrossEntropy)
    classes = losses.balanced(data.class_counts()) if is_balanced else model.loss.weight
    return weights if classes is None else weights * classes[labels]
