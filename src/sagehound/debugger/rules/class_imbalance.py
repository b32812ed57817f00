"""ClassImbalance: some classes have many more photos than others."""

from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

from sagehound.debugger.observation import Step
from sagehound.debugger.rules.rule import Finding, Rule, parameter


@dataclass
class ClassImbalance(Rule):
    """The largest class has ``threshold_imbalance`` times the photos of the smallest, among ``samples`` labels.

    Or the share of wrong predictions of a class exceeds ``threshold_misprediction``; the calibrated rule ignores
    that, because every model does that at its first steps. If the counts of the train photos are known, they decide.
    """

    name: ClassVar[str] = "ClassImbalance"
    needs: ClassVar[tuple[str, ...]] = ("labels",)

    threshold_imbalance: float = parameter(10.0, unit="ratio")
    threshold_misprediction: float = parameter(0.7, 2.0, unit="share of the photos of a class")
    samples: int = parameter(500, unit="labels")
    _labels: Counter[int] = field(default_factory=Counter)
    _wrong: Counter[int] = field(default_factory=Counter)

    def on_step(self, step: Step) -> Finding | None:
        """Count the labels of the step."""
        if not step.is_training or self.facts.weighted:
            return None
        if self.facts.counts and 0 not in self.facts.counts:
            return self._compare(step, max(self.facts.counts), min(self.facts.counts))
        labels = next((t.values for t in step.of("labels").values()), None)
        if labels is None:
            return None
        logits = next((t.values for t in step.of("predictions").values()), None)
        self._labels.update(labels.tolist())
        if logits is not None:
            self._wrong.update(labels[logits.argmax(1) != labels].tolist())
        if sum(self._labels.values()) < self.samples:
            return None
        finding = self._compare(step, max(self._labels.values()), min(self._labels.values())) or self._mispredicted(
            step
        )
        self._labels.clear()
        self._wrong.clear()
        return finding

    def _compare(self, step: Step, most: int, fewest: int) -> Finding | None:
        if most / fewest <= self.threshold_imbalance:
            return None
        return self.found(
            step,
            "labels",
            most / fewest,
            self.threshold_imbalance,
            f"the largest class has {most} photos, the smallest {fewest}",
            "photos of some classes are rare; the model will seldom predict them",
            "loss.class_weights=balanced",
        )

    def _mispredicted(self, step: Step) -> Finding | None:
        for label, wrong in self._wrong.items():
            share = wrong / self._labels[label]
            if share > self.threshold_misprediction:
                meaning = f"{share:.0%} of the photos of class {label} are predicted wrongly"
                limit = self.threshold_misprediction
                return self.found(step, "predictions", share, limit, meaning, "the class is hard or rare")
        return None
