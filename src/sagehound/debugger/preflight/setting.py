"""The input of the checks before the first epoch, and functions that undo the changes of a check."""

import copy
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sagehound.data.datamodule import PhotoDataModule
from sagehound.data.loader import Batch
from sagehound.debugger.rules.rule import Facts, Finding
from sagehound.models.classifier import Classifier

_BATCH = 32


class Unknown(Exception):
    """A check cannot be made; the message says why."""


@dataclass
class Setting:
    """The model, the data and the optimizer that the checks before the first epoch use.

    Attributes:
        model: already on the device that trains it.
        data: already attached to its Trainer.
        optimizer: the model's optimizer, before its first step.
        clip: the norm to which gradients are clipped; None: they are not clipped.
        facts: settings of the run that the checks compare, such as the number of epochs.
    """

    model: Classifier
    data: PhotoDataModule
    optimizer: torch.optim.Optimizer
    clip: float | None = None
    facts: Facts = field(default_factory=Facts)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.model.classes)

    @property
    def chance(self) -> float:
        """The cross entropy of a model that knows nothing: ln(classes)."""
        return math.log(max(self.classes, 2))

    @cached_property
    def batch(self) -> Batch:
        """The first train batch, on the model's device; at most 32 photos or rows of features."""
        batch = next(iter(self.data.train_dataloader()))
        most = _BATCH if batch[0].ndim == 2 else _BATCH // 4
        return tuple(t[:most].to(self.model.device) for t in batch)

    @cached_property
    def photos(self) -> Tensor:
        """Up to 64 train photos from all over the set, without augmentation: uint8, b x 3 x h x w."""
        return self.data.sample("train", 64)

    @property
    def without_callback(self) -> str:
        """The override that leaves out the user's callback, if there is one."""
        return f"~callbacks.{self.facts.callbacks[0]}" if self.facts.callbacks else ""

    @property
    def without_optimizer(self) -> str:
        """The override that replaces a user's optimizer, or leaves out the user's callback."""
        own = "optimizer._target_=null" if self.model.make_optimizer else ""
        return own or self.without_callback or "optimizer=adamw"

    def inputs(self, batch: Batch) -> Tensor:
        """What the model's ``classify`` takes: normalised photos, or features."""
        return batch[0] if batch[0].ndim == 2 else self.model.normalise(batch[0])


def finding(rule: str, what: str, value: float, limit: float, meaning: str, cause: str, override: str = "") -> Finding:
    """A finding from before the first step."""
    return Finding(rule, None, True, what, float(value), float(limit), meaning, cause, override)


def spread(data: PhotoDataModule, most: int) -> list[int]:
    """Indices of up to ``most`` evenly spaced train photos."""
    n = len(data.photos.split("train"))
    return sorted({int(i) for i in np.linspace(0, n - 1, min(n, most))})


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Restore the states of Python's and numpy's random generators."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def eval_mode(model: Classifier) -> Iterator[None]:
    """Evaluation mode for this block."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


@contextmanager
def training_mode(model: Classifier) -> Iterator[None]:
    """Training mode with gradients for this block, without dropout in the head."""
    was = model.training
    model.train()
    for module in model.head.modules():
        if isinstance(module, nn.Dropout):
            module.eval()  # dropout would keep the loss of a memorized batch above zero
    try:
        with torch.enable_grad():
            yield
    finally:
        model.train(was)


@contextmanager
def restored(model: Classifier, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Restore weights, statistics, gradients and the optimizer's state, bit for bit."""
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state: dict[Any, Any] = copy.deepcopy(dict(optimizer.state))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in model.state_dict().items():
                value.copy_(weights[name])
        optimizer.state.clear()
        optimizer.state.update(state)
