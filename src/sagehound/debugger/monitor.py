"""Evaluates the rules while a model is trained, prints what they find, and writes findings.json."""

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sagehound.config import Debugger, Train
from sagehound.data.datamodule import PhotoDataModule
from sagehound.debugger import LABELS, LOSS, PREDICTIONS, findings
from sagehound.debugger.evaluator import Evaluator
from sagehound.debugger.observation import Observed, Step
from sagehound.debugger.observers import Parameters
from sagehound.debugger.rules import make
from sagehound.debugger.rules.rule import Facts, Finding, RuleFailed
from sagehound.debugger.rules.stalled_training import StalledTraining
from sagehound.errors import SagehoundError
from sagehound.models.classifier import Classifier

_SCORES = {"losses", "labels", "predictions"}


class Monitor:
    """Collects the tensors of a step, and gives them to the rules when the step ends.

    Args:
        cfg: the group ``debugger``.
        evaluator: the rules, with the findings from before the training.
        file: findings.json.
        steps: numbers of training and validation steps before this run.
        on_finding: called with each finding and its action, ``report``, ``stop`` or ``fail``.
        on_tensors: called once an epoch with the weights, gradients and activations of a step.
    """

    after_error = "the rules are no longer evaluated"

    def __init__(
        self,
        cfg: Debugger,
        evaluator: Evaluator,
        file: Path,
        steps: tuple[int, int] = (0, 0),
        on_finding: Callable[[Finding, str], None] | None = None,
        on_tensors: Callable[[Mapping[str, Mapping[str, Observed]]], None] | None = None,
    ) -> None:
        self._on_tensors, self._is_new_epoch = on_tensors, True
        self._cfg, self._evaluator, self._file = cfg, evaluator, file
        self._numbers = {True: steps[0] - 1, False: steps[1] - 1}
        self._training = True
        self._current: set[str] = set()  # collections that are wanted of the step
        self._tensors: dict[str, dict[str, Observed]] = {}
        self._on_finding = on_finding or (lambda finding, action: None)
        self._watch = _Watch(evaluator, self._report)
        self._evaluator_is_open = True
        self._write()

    def begin(self, parameters: Parameters, *, training: bool) -> set[str]:
        """Begin the next step; copy the weights if the step is one of the interval."""
        self._training, self._tensors = training, {}
        self._numbers[training] += 1
        self._current = self._wanted(training)
        if self._current & {"weights", "biases"}:
            for name, parameter in parameters():
                collection = "biases" if name.endswith("bias") else "weights" if "weight" in name else ""
                self._add(collection, f"Classifier_{name}", parameter)
        return self._current

    def activation(self, name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Copy a layer's inputs and output."""
        collection = "relu_input" if name.endswith(".relu") else "saturating_input"
        for index, tensor in enumerate(inputs):
            if isinstance(tensor, Tensor):
                self._add(collection, f"{name}_input_{index}", tensor)
        if collection == "relu_input":
            self._add("relu_output", f"{name}_output_0", output)

    def gradients(self, parameters: Parameters) -> None:
        """Copy the gradients."""
        for name, parameter in parameters():
            if parameter.grad is not None:
                self._add("gradients", f"gradient/Classifier_{name}", parameter.grad)

    def scores(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Copy the loss and its inputs."""
        self._add("losses", f"{LOSS}_output_0", loss)
        self._add("predictions", PREDICTIONS, logits)
        self._add("labels", LABELS, labels)

    def end(self) -> None:
        """Evaluate the rules on the step."""
        self._watch.touch()
        step = Step(self._training, self._numbers[self._training], self._tensors)
        self._is_new_epoch = self._is_new_epoch or not self._training
        if self._on_tensors and self._training and self._is_new_epoch and self._tensors.keys() - _SCORES:
            self._is_new_epoch = False
            self._on_tensors(self._tensors)
        if self._tensors:
            for name, finding in self._evaluator.on_step(step):
                self._report(name, finding)
        self._tensors = {}

    def close(self) -> None:
        """Evaluate what can be judged only at the end, and write findings.json."""
        if not self._evaluator_is_open:
            return
        self._evaluator_is_open = False
        self._watch.close()
        for name, finding in self._evaluator.on_end():
            self._report(name, finding)
        self._write()

    def abandon(self) -> None:
        """End the thread that watches for a stall."""
        self._watch.close()

    def _wanted(self, training: bool) -> set[str]:
        number, cfg = self._numbers[training], self._cfg
        chosen = {"losses", *cfg.collections}
        large = number % (cfg.train_interval if training else cfg.eval_interval) == 0
        small = number % cfg.loss_interval == 0
        return {c for c in chosen if (small if c in _SCORES else large)}

    def _add(self, collection: str, name: str, tensor: Tensor) -> None:
        if collection in self._current:
            self._tensors.setdefault(collection, {})[name] = Observed(_copy(tensor))

    def _report(self, name: str, finding: Finding) -> None:
        self._write()
        act(self._cfg, name, finding, self._on_finding)

    def _write(self) -> None:
        try:
            findings.write(self._file, self._evaluator, self._cfg.profile)
        except SagehoundError as error:  # a full disk does not end the training
            raise OSError(str(error)) from error


def act(cfg: Debugger, name: str, finding: Finding, on_finding: Callable[[Finding, str], None]) -> None:
    """Print a finding, and do what the config says: ``action``, or the rule's own.

    Raises:
        RuleFailed: the action is fail.
    """
    action = str((cfg.rules or {}).get(name, {}).get("action", cfg.action))
    findings.tell(finding)
    on_finding(finding, action)
    if action == "fail":
        raise RuleFailed(f"debugger: {finding.rule}, and its action is fail: {findings.line(finding)}")


class _Watch:
    """A thread that checks whether the training has stalled."""

    def __init__(self, evaluator: Evaluator, report: Callable[[str, Finding], None]) -> None:
        self._last = time.monotonic()
        self._ended = threading.Event()
        rules = {n: r for n, r in evaluator.rules.items() if isinstance(r, StalledTraining)}
        if rules:
            pause = min(r.threshold for r in rules.values()) / 10
            arguments = (rules, evaluator, report, min(max(pause, 0.05), 60))
            threading.Thread(target=self._run, args=arguments, daemon=True, name="sagehound-stalled").start()

    def touch(self) -> None:
        """A step has ended."""
        self._last = time.monotonic()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()

    def _run(
        self,
        rules: Mapping[str, StalledTraining],
        evaluator: Evaluator,
        report: Callable[[str, Finding], None],
        pause: float,
    ) -> None:
        waiting = dict(rules)
        while waiting and not self._ended.wait(pause):
            for name, rule in list(waiting.items()):
                finding = rule.on_wait(time.monotonic() - self._last)
                if finding:
                    del waiting[name]
                    evaluator.add(name, finding)
                    report(name, finding)


def _copy(tensor: Tensor) -> np.ndarray[Any, Any]:
    """On the CPU, as float if it is one: numpy has no bfloat16, and training changes the tensor."""
    tensor = tensor.detach()
    plain = (tensor.float() if tensor.is_floating_point() else tensor).cpu().contiguous()
    array: np.ndarray[Any, Any] = (plain.clone() if plain.data_ptr() == tensor.data_ptr() else plain).numpy()
    return array


def prepare(cfg: Train, model: Classifier, data: PhotoDataModule) -> Evaluator | None:
    """The rules of a run; None if AWS evaluates them.

    Raises:
        ConfigError: no such rule, parameter or class.
    """
    if cfg.debugger is None or cfg.debugger.name != "local":
        return None
    counts = data.class_counts()
    facts = Facts(
        lr=cfg.optimizer.lr,
        epochs=cfg.trainer.max_epochs,
        classes=len(model.classes),
        counts=tuple(int(n) for n in counts),
        frozen=cfg.finetune.name == "head",
        weighted=cfg.balances_classes,
        callbacks=tuple(cfg.callbacks),
    )
    return Evaluator(make(cfg.debugger.rules, cfg.debugger.profile, facts), facts)
