"""StalledTraining: no step has ended for a long time."""

from dataclasses import dataclass
from typing import ClassVar

from sagehound.debugger.rules.rule import Finding, Rule, parameter


@dataclass
class StalledTraining(Rule):
    """No step has ended for ``threshold`` seconds. Only while a training runs: saved tensors have no times."""

    name: ClassVar[str] = "StalledTraining"
    needs: ClassVar[tuple[str, ...]] = ("times",)

    threshold: float = parameter(1800.0, unit="seconds")

    def on_wait(self, seconds: float) -> Finding | None:
        """Judge the seconds since the last step."""
        if seconds < self.threshold:
            return None
        return self.found(
            None,
            "time",
            seconds,
            self.threshold,
            f"no step has ended for {seconds:.0f} s",
            "the disk or the network of the photos does not respond, or a process of DDP has died",
            "data.workers=0",
        )
