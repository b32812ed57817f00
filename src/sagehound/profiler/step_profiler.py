"""How long each part of a train step takes, by Lightning's own profiler calls."""

import functools
import time
from collections import defaultdict
from typing import Any

import torch
from lightning.pytorch.profilers import Profiler

PHASES = ("data", "forward", "backward", "optimizer", "validation", "checkpoint", "other")
_EVERY = 10  # on a GPU, steps between two whose parts are measured; the profiler waits for the GPU after each part
_MEASURED = ("forward", "backward", "optimizer", "other")  # inside of a step
_HOOKS = (".on_train_batch_", ".on_before_", ".on_after_", ".configure_gradient_clipping", ".optimizer_zero_grad")
_PARTS = {  # endings of Lightning's names of actions
    ".train_dataloader_next": "data",
    ".batch_to_device": "data",
    ".training_step": "forward",
    ".backward": "backward",
    ".optimizer_step": "optimizer",
}


class StepProfiler(Profiler):
    """Adds up the time of each part. The time of an action inside another one counts for the inner one only.

    A GPU is asynchronous: Python starts an operation and does not wait for its end. So on a GPU the parts of every
    tenth step alone are measured, with ``torch.cuda.synchronize`` before the step and after each part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)  # of each of PHASES; of _MEASURED in measured steps only
        self.steps: list[float] = []  # seconds of each step, with the wait for its batch
        self.first_step: float | None = None  # time.time() of it
        self._stack: list[tuple[str, str, float, float]] = []  # action, part, start, time of inner actions
        self._waited = 0.0
        self._is_cuda = torch.cuda.is_available()
        self._is_measured = False  # whether the current step is
        self._measured_steps = 0

    def start(self, action_name: str) -> None:
        """Begin an action."""
        if action_name == "run_training_batch":
            self.first_step = self.first_step or time.time()
            self._is_measured = not self._is_cuda or len(self.steps) % _EVERY == 1
            self._measured_steps += self._is_measured
            self._synchronize()
        self._stack.append((action_name, part_of(action_name), time.perf_counter(), 0.0))

    def stop(self, action_name: str) -> None:
        """End an action."""
        if not self._stack or self._stack[-1][0] != action_name:
            return  # an action that an exception has interrupted
        _, part, start, inner = self._stack.pop()
        if part in _MEASURED:
            self._synchronize()
        seconds = time.perf_counter() - start
        if self._is_measured or part not in _MEASURED:
            self.seconds[part] += seconds - inner
        if self._stack:
            name, outer, began, so_far = self._stack[-1]
            self._stack[-1] = (name, outer, began, so_far + seconds)
        if action_name.endswith(".train_dataloader_next"):
            self._waited = seconds
        elif action_name == "run_training_batch":
            self.steps.append(seconds + self._waited)

    def summary(self) -> str:
        """Nothing: the profile is written elsewhere."""
        return ""

    def state(self) -> dict[str, Any]:
        """Milliseconds of each part of a mean step."""
        counts = {part: self._measured_steps if part in _MEASURED else len(self.steps) for part in PHASES}
        return {
            part: round(1000 * self.seconds[part] / max(counts[part], 1), 3) for part in PHASES if self.seconds[part]
        }

    def _synchronize(self) -> None:
        if self._is_cuda and self._is_measured:
            torch.cuda.synchronize()


@functools.cache
def part_of(action: str) -> str:
    """The part of a step to which one of Lightning's actions belongs."""
    for ending, part in _PARTS.items():
        if action.endswith(ending):
            return part
    if "validation" in action or ".val_next" in action or "_EvaluationLoop" in action:
        return "validation"
    if "Checkpoint" in action or "checkpoint" in action:
        return "checkpoint"
    is_of_step = action == "run_training_batch" or any(hook in action for hook in _HOOKS)
    return "other" if is_of_step and "Operators" not in action else "around"  # the steps: setup, the profiler itself
