"""The base class of rules. A rule checks each step and may return a finding. Needs numpy only."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from sagehound.debugger.observation import Step
from sagehound.errors import SagehoundError


class RuleFailed(SagehoundError):
    """A rule has found something, and its action is fail."""


@dataclass(frozen=True)
class Facts:
    """What is known of a run before its first step; defaults where it is unknown.

    Attributes:
        lr: the head's learning rate at the schedule's peak.
        epochs: how many are planned.
        steps: optimizer steps that are planned.
        classes: how many.
        counts: train photos of each class.
        frozen: whether the backbone is frozen for the whole run.
        weighted: whether a setting of the loss or the sampling balances the classes.
        callbacks: names of the user's callbacks in the config.
    """

    lr: float | None = None
    epochs: int | None = None
    steps: int | None = None
    classes: int | None = None
    counts: tuple[int, ...] = ()
    frozen: bool = False
    weighted: bool = False
    callbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A fault that a rule has found.

    Attributes:
        rule: the rule's name.
        step: number of the step, from 0; None: before the first one.
        is_training: whether it is a training step or a batch of valid photos.
        tensor: name of the tensor, or of what was measured.
        value: what was measured.
        threshold: the limit that it has crossed.
        meaning: what that means, in one sentence.
        cause: the likely cause.
        override: one setting that probably cures it, to paste; empty if there is none.
    """

    rule: str
    step: int | None
    is_training: bool
    tensor: str
    value: float
    threshold: float
    meaning: str
    cause: str
    override: str = ""


def parameter(documented: Any, calibrated: Any = dataclasses.MISSING, unit: str = "") -> Any:  # noqa: ANN401
    """A rule's parameter: AWS's documented default, and the calibrated one if it is another.

    Args:
        documented: AWS's default; for rules of our own the only one.
        calibrated: chosen with ``benchmarks/faults.py``.
        unit: what it counts.
    """
    value = documented if calibrated is dataclasses.MISSING else calibrated
    return dataclasses.field(default=value, metadata={"aws": documented, "unit": unit})


@dataclass
class Rule:
    """A rule. A subclass is a dataclass whose fields are its parameters.

    ``name`` is what findings and configs call it, ``needs`` are the collections without which it cannot judge.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    facts: Facts = dataclasses.field(default_factory=Facts, kw_only=True, repr=False)

    def on_step(self, step: Step) -> Finding | None:
        """Look at one step; steps come in the order in which they were computed.

        Raises:
            Missing: the values or the statistic that it needs were not saved.
        """
        return None

    def on_end(self) -> Finding | None:
        """Judge at the end of the training, or of the saved tensors."""
        return None

    def found(
        self,
        step: Step | None,
        tensor: str,
        value: float,
        threshold: float,
        meaning: str,
        cause: str,
        override: str = "",
    ) -> Finding:
        """A finding of this rule."""
        number, is_training = (step.number, step.is_training) if step else (None, True)
        return Finding(self.name, number, is_training, tensor, float(value), float(threshold), meaning, cause, override)

    @classmethod
    def parameters(cls, profile: str = "calibrated") -> dict[str, Any]:
        """The defaults of the parameters, ``calibrated`` or ``aws``."""
        return {
            f.name: f.metadata["aws"] if profile == "aws" else f.default
            for f in dataclasses.fields(cls)
            if "aws" in f.metadata
        }


def smaller_lr(facts: Facts, factor: float = 10) -> str:
    """The override of a learning rate that is ``factor`` times smaller."""
    return f"optimizer.lr={facts.lr / factor:.3g}" if facts.lr else ""


def larger_lr(facts: Facts, factor: float = 10) -> str:
    """The override of a learning rate that is ``factor`` times larger."""
    return f"optimizer.lr={facts.lr * factor:.3g}" if facts.lr else ""
