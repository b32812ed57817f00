"""UnchangedTensor: a tensor does not change from step to step."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from sagehound.debugger.observation import Array, Step
from sagehound.debugger.rules.rule import Finding, Rule, parameter


@dataclass
class UnchangedTensor(Rule):
    """A tensor is unchanged over ``num_steps`` observed steps, by numpy's allclose with ``rtol`` and ``atol``.

    AWS looks at every tensor. The calibrated rule looks at the weights that are trained, in the first steps, and
    requires that they are exactly equal: small changes at a low learning rate are changes.
    """

    name: ClassVar[str] = "UnchangedTensor"
    needs: ClassVar[tuple[str, ...]] = ("weights",)

    num_steps: int = parameter(3, unit="observed steps")
    rtol: float = parameter(1e-5, 0.0)
    atol: float = parameter(1e-8, 0.0)
    only_weights: bool = parameter(False, True)
    _before: dict[str, Array] = field(default_factory=dict)
    _same: dict[str, int] = field(default_factory=dict)
    _steps: int = 0

    def on_step(self, step: Step) -> Finding | None:
        """Compare each tensor with the one of the observed step before."""
        collections = ("weights",) if self.only_weights else ("weights", "biases", "gradients")
        tensors = {name: t for c in collections for name, t in step.of(c).items()} if step.is_training else {}
        if not tensors or (self.only_weights and self._steps > self.num_steps):
            return None
        self._steps += 1
        for name, tensor in tensors.items():
            now, before = tensor.values, self._before.get(name)
            is_same = before is not None and np.allclose(before, now, rtol=self.rtol, atol=self.atol, equal_nan=True)
            self._same[name] = self._same.get(name, 1) + 1 if is_same else 1
            self._before[name] = now
        fixed = [name for name, times in self._same.items() if times >= self.num_steps and name in tensors]
        if not fixed:
            return None
        return self.found(
            step,
            fixed[0],
            self._same[fixed[0]],
            self.num_steps,
            f"{len(fixed)} of {len(tensors)} tensors have not changed in {self.num_steps} observed steps",
            "these weights are not given to the optimizer, or their learning rate is zero",
            "schedule=cosine",
        )
