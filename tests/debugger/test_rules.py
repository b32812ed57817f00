"""Each rule on steps that show its fault, and on steps of a healthy training."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from sagehound.config import Debugger
from sagehound.debugger.evaluator import ERROR, ISSUES, NO_ISSUES, NOT_EVALUATED, Evaluator
from sagehound.debugger.observation import Observed, Step
from sagehound.debugger.rules import make, registry
from sagehound.debugger.rules.rule import Facts, Finding, Rule
from sagehound.errors import ConfigError

FACTS = Facts(lr=0.01, epochs=5, classes=4, counts=(10, 10, 10, 10))
EPOCH = 20  # steps
Change = Callable[[int, bool, dict[str, np.ndarray]], None]


def healthy(number: int, training: bool, seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors of one step of a model that learns."""
    rng = np.random.default_rng([seed, number, training])
    labels = rng.integers(0, 4, 16)
    logits = rng.normal(0, 0.1, (16, 4)) + np.eye(4)[labels] * min(number, 40) / 8
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return {
        "labels": labels,
        "predictions": logits.astype(np.float32),
        "losses": np.float32(-np.log(p[np.arange(16), labels]).mean()),
        "gradients": rng.normal(0, 0.01, (4, 8)).astype(np.float32),
        "weights": (np.ones((4, 8)) + 0.01 * number + 0.001 * rng.normal(size=(4, 8))).astype(np.float32),
        "relu_input": rng.normal(0, 1, (8, 6, 3, 3)).astype(np.float32),
        "saturating_input": rng.normal(0, 1, (8, 6)).astype(np.float32),
    }


NAMES = {"saturating_input": "head.1.tanh_input_0", "weights": "Classifier_head.0.weight"}


def steps(change: Change | None = None, epochs: int = 3) -> list[Step]:
    """Some epochs of train and valid steps, changed."""
    result = []
    for epoch in range(epochs):
        for training, count in ((True, EPOCH), (False, 2)):
            for i in range(count):
                tensors = healthy(epoch * EPOCH + i + (0 if training else EPOCH), training)
                if change:
                    change(epoch * EPOCH + i, training, tensors)
                observed = {c: {NAMES.get(c, c): Observed(np.asarray(v))} for c, v in tensors.items()}
                result.append(Step(training, epoch * count + i, observed))
    return result


def findings(rules: dict[str, Rule], stream: list[Step]) -> tuple[list[Finding], Evaluator]:
    evaluator = Evaluator(rules)
    for step in stream:
        list(evaluator.on_step(step))
    list(evaluator.on_end())
    return evaluator.findings, evaluator


def set_(**values: object) -> Change:
    """Replace tensors of train steps."""

    def change(number: int, training: bool, tensors: dict[str, np.ndarray]) -> None:
        if training:
            tensors.update({k: np.asarray(v(number) if callable(v) else v) for k, v in values.items()})

    return change


def constant_logits(number: int, training: bool, tensors: dict[str, np.ndarray]) -> None:
    tensors["predictions"] = np.zeros((16, 4), np.float32)
    tensors["losses"] = np.float32(math.log(4))


def overfitted(number: int, training: bool, tensors: dict[str, np.ndarray]) -> None:
    tensors["losses"] = np.float32(0.01 if training else 0.5 + number / 60)


def other_labels(number: int, training: bool, tensors: dict[str, np.ndarray]) -> None:
    tensors["losses"] = np.float32(0.5 if training else 3)
    if not training:
        tensors["labels"] = (tensors["labels"] + 1) % 4
    tensors["predictions"] = 5 * np.eye(4)[tensors["labels"] if training else (tensors["labels"] - 1) % 4]


FAULTS: dict[str, tuple[Change, int]] = {
    "vanishing_gradient": (set_(gradients=np.full((4, 8), 1e-9), losses=1.0), 3),
    "exploding_tensor": (set_(gradients=lambda n: np.array([1.0, math.nan if n > 3 else 0.0])), 3),
    "overfit": (overfitted, 12),
    "overtraining": (lambda n, training, t: t.update(losses=np.float32(0.1)), 40),
    "poor_weight_initialization": (set_(losses=lambda n: 9.0), 3),
    "loss_not_decreasing": (set_(losses=1.3), 3),
    "dead_relu": (set_(relu_input=np.full((8, 6, 3, 3), -1.0)), 3),
    "saturated_activation": (set_(saturating_input=np.full((8, 6), 20.0)), 3),
    "weight_update_ratio": (set_(weights=lambda n: np.full((4, 8), 3.0**n)), 1),
    "all_zero": (set_(gradients=np.zeros((4, 8))), 3),
    "tensor_variance": (constant_logits, 3),
    "unchanged_tensor": (set_(weights=np.ones((4, 8))), 3),
    "learning_rate_too_high": (set_(losses=lambda n: 1.4 + n), 3),
    "learning_rate_too_low": (set_(losses=1.38, weights=lambda n: np.ones((4, 8)) + 1e-6 * n), 3),
    "train_eval_gap": (other_labels, 3),
}


def test_a_healthy_training_has_no_finding() -> None:
    found, evaluator = findings(make(None, "calibrated", FACTS), steps())
    assert found == []
    statuses = {s["RuleConfigurationName"]: s["RuleEvaluationStatus"] for s in evaluator.statuses()}
    assert statuses.pop("StalledTraining") == NOT_EVALUATED
    assert set(statuses.values()) == {NO_ISSUES}


@pytest.mark.parametrize("name", FAULTS)
def test_each_rule_finds_its_fault(name: str) -> None:
    change, epochs = FAULTS[name]
    found, _ = findings(make({name: {}}, "calibrated", FACTS), steps(change, epochs))
    assert [f.rule for f in found] == [registry()[name].name]
    assert found[0].meaning
    assert found[0].cause
    assert "=" in found[0].override or not found[0].override


def test_class_imbalance_by_counts_and_by_labels() -> None:
    known = Facts(counts=(100, 5), classes=2)
    assert [f.value for f in findings(make({"class_imbalance": {}}, "calibrated", known), steps())[0]] == [20]
    rare = set_(labels=lambda n: np.array([0] * 15 + [n % 20 == 0]))
    found, _ = findings(make({"class_imbalance": {"samples": 200}}, "calibrated", Facts()), steps(rare))
    assert [f.rule for f in found] == ["ClassImbalance"]


def test_every_rule_has_a_fault_here() -> None:
    assert set(registry()) == {*FAULTS, "class_imbalance", "stalled_training"}


def test_aws_profile_has_the_documented_defaults() -> None:
    assert registry()["overfit"].parameters("aws")["ratio_threshold"] == 0.1
    assert registry()["vanishing_gradient"].parameters("aws")["threshold"] == 1e-7
    assert registry()["class_imbalance"].parameters("aws")["threshold_misprediction"] == 0.7
    assert registry()["stalled_training"].parameters("aws")["threshold"] == 1800
    found, _ = findings(make(None, "aws", FACTS), steps(overfitted, 2))
    assert "Overfit" in {f.rule for f in found}


def test_a_rule_without_its_tensors_is_not_evaluated() -> None:
    rules = make({"vanishing_gradient": {}, "overfit": {}, "dead_relu": {}}, "calibrated", FACTS)
    stream = [
        Step(s.is_training, s.number, {"losses": s.of("losses"), "relu_input": {"a": Observed(statistics={"min": 0})}})
        for s in steps()
    ]
    _, evaluator = findings(rules, stream)
    statuses = {s["RuleConfigurationName"]: s for s in evaluator.statuses()}
    assert statuses["Overfit"]["RuleEvaluationStatus"] == NO_ISSUES
    assert statuses["VanishingGradient"]["RuleEvaluationStatus"] == NOT_EVALUATED
    assert statuses["VanishingGradient"]["StatusDetails"] == "no tensors of gradients"
    assert "only statistics were saved" in statuses["DeadRelu"]["StatusDetails"]


def test_statistics_suffice_where_a_rule_needs_no_values() -> None:
    def reduced(step: Step) -> Step:
        small = {"g": Observed(statistics={"abs_mean": 1e-9, "min": 0.0, "max": 0.0, "mean": 0.0})}
        return Step(step.is_training, step.number, {"losses": step.of("losses"), "gradients": small})

    found, _ = findings(make({"vanishing_gradient": {"loss": 0}}, "calibrated", FACTS), [reduced(s) for s in steps()])
    assert [f.rule for f in found] == ["VanishingGradient"]


class Broken(Rule):
    """A rule with an error."""

    name = "Broken"

    def on_step(self, step: Step) -> Finding | None:
        raise KeyError("mine")


def test_an_error_in_a_rule_ends_this_rule_only() -> None:
    rules: dict[str, Rule] = {"broken": Broken()} | make({"loss_not_decreasing": {}}, "calibrated", FACTS)
    _, evaluator = findings(rules, steps(FAULTS["loss_not_decreasing"][0]))
    assert [s["RuleEvaluationStatus"] for s in evaluator.statuses()] == [ERROR, ISSUES]
    assert "mine" in evaluator.statuses()[0]["StatusDetails"]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"overfitt": {}}, "debugger.rules.overfitt: no such rule; choose from all_zero"),
        ({"overfit": {"patienc": 1}}, "the rule Overfit has no such parameter; it has start_step, patience"),
        ({"overfit": {"patience": "many"}}, "debugger.rules.overfit.patience=many: give a number"),
        ({"mine": {"_target_": "collections.Counter"}}, "debugger.rules.mine: Counter is not a"),
    ],
)
def test_a_wrong_rule_is_one_line(rules: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(Debugger(name="local", rules=rules).rules, "calibrated", FACTS)
