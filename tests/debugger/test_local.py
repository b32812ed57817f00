"""debugger=local: what a run reports, what it does about it, and that the model is the one without it."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Command, Compose, small, verify_by
from run_helpers import curves, same
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sagehound.config import Debugger
from sagehound.debugger import rules, saved
from sagehound.errors import ConfigError, SagehoundError
from sagehound.training.train import train

EVERY = ["debugger.train_interval=1", "debugger.eval_interval=1"]
LOCAL = ["debugger=local", *EVERY]
RISING = ["optimizer=sgd", "optimizer.lr=1000", "trainer.gradient_clip=null", "trainer.max_epochs=4"]
OWN = '''
from sagehound.debugger.rules.rule import Rule


class LossBelow(Rule):
    """The train loss is below a limit."""

    name = "LossBelow"
    needs = ("losses",)

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def on_step(self, step):
        if step.is_training and step.loss < self.limit:
            return self.found(step, "loss", step.loss, self.limit, "the loss is low", "it learns")
'''


def findings(run: Path, name: str = "findings.json") -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((run / "debugger" / name).read_text())["findings"]
    return content


def statuses(run: Path) -> dict[str, str]:
    content = json.loads((run / "debugger/findings.json").read_text())["DebugRuleEvaluationStatuses"]
    return {status["RuleConfigurationName"]: status["RuleEvaluationStatus"] for status in content}


@pytest.mark.parametrize(
    "given",
    [
        ["finetune=head", "head.hidden=[8]", "head.dropout=0.3"],
        ["finetune=gradual", "finetune.head_epochs=1", "data.batch_size=20", "trainer.accumulate=2"],
        pytest.param(
            ["finetune=full", "trainer.ema=0.9", "trainer.precision=bf16-mixed", "augment=strong"],
            marks=pytest.mark.slow,
        ),
        pytest.param(["finetune=head", "features.cache=false", "optimizer=sgd"], marks=pytest.mark.slow),
    ],
)
def test_the_model_is_the_one_without_it(config: Compose, tmp_path: Path, given: list[str]) -> None:
    plain = train(config(*given), tmp_path / "plain")
    run = train(config(*given, *LOCAL), tmp_path / "run")
    assert same(plain, run)
    assert not (run.folder / "debugger/tensors").exists(), "saving is another switch"
    evaluated = statuses(run.folder)
    assert {"Overfit", "ExplodingTensor", "Preflight/one_batch"} <= evaluated.keys()
    assert evaluated["StalledTraining"] == "NotEvaluated"
    assert "InProgress" not in evaluated.values()


@pytest.mark.slow
def test_a_finding_names_step_value_cause_and_override(
    config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(config(*LOCAL, *RISING, "debugger.preflight=false"), tmp_path / "run")
    finding = next(f for f in findings(run.folder) if f["rule"] == "LearningRateTooHigh")
    assert finding["step"] >= 2
    assert finding["value"] > finding["threshold"]
    assert finding["override"] == "optimizer.lr=0.002"
    printed = capsys.readouterr().out
    assert printed.count("warning: debugger: LearningRateTooHigh: the train loss rose from") == 1
    assert "Likely cause: the learning rate is too high. Try optimizer.lr=0.002" in printed
    points = curves(run.folder)["debugger/LearningRateTooHigh"]
    assert [value for _, value in points] == [1.0], "a mark in TensorBoard"
    better = train(config(*LOCAL, *RISING[2:], finding["override"]), tmp_path / "better")
    assert "LearningRateTooHigh" not in [f["rule"] for f in findings(better.folder)]


def test_checks_before_the_first_step(config: Compose, tmp_path: Path) -> None:
    run = train(config(*LOCAL, *RISING), tmp_path / "run")
    first = {f["rule"]: f["step"] for f in findings(run.folder)}
    assert first["LearningRateTooHigh"] is None
    assert first["RandomBackbone"] is None, "the weights of the tests' backbone are random"


def test_action_stop_keeps_the_checkpoint(config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop = "+debugger.rules.learning_rate_too_high.action=stop"
    run = train(config(*LOCAL, *RISING, "debugger.preflight=false", stop), tmp_path / "run")
    assert "training stops because of LearningRateTooHigh" in capsys.readouterr().out
    assert torch.load(run.folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] < 20, "four epochs"
    assert (run.folder / "checkpoints/best.ckpt").exists()
    assert run.metrics["test"]["top1"] >= 0


def test_action_fail_ends_the_command(config: Compose, tmp_path: Path) -> None:
    fail = "+debugger.rules.learning_rate_too_high.action=fail"
    with pytest.raises(SagehoundError, match="LearningRateTooHigh, and its action is fail") as error:
        train(config(*LOCAL, *RISING, fail, "debugger.preflight=false"), tmp_path / "run")
    assert error.value.exit_code == 1
    assert findings(tmp_path / "run")[-1]["rule"] == "LearningRateTooHigh"


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["calibrated", "aws"])
def test_saved_tensors_give_the_same_verdicts(config: Compose, tmp_path: Path, profile: str) -> None:
    given = [*LOCAL, *RISING, "head.hidden=[8]", f"debugger.profile={profile}", "debugger.preflight=false"]
    run = train(config(*given, "debugger.save=true"), tmp_path / "run")
    evaluator = saved.evaluate(run.folder, Debugger(name="local", profile=profile))
    live = findings(run.folder)
    assert len(live) >= 2
    afterwards = {finding.rule: finding for finding in evaluator.findings}
    assert afterwards.keys() == {finding["rule"] for finding in live}
    for finding in live:
        other = afterwards[finding["rule"]]
        assert (other.step, other.tensor) == (finding["step"], finding["tensor"])
        assert other.value == pytest.approx(float(finding["value"]), rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("profile", ["calibrated", pytest.param("aws", marks=pytest.mark.slow)])
def test_saved_statistics_give_the_same_verdicts_or_none(config: Compose, tmp_path: Path, profile: str) -> None:
    given = [*LOCAL, *RISING, "head.hidden=[8]", f"debugger.profile={profile}", "debugger.preflight=false"]
    run = train(config(*given, "debugger.save=true", "debugger.reductions=true"), tmp_path / "run")
    evaluator = saved.evaluate(run.folder, Debugger(name="local", profile=profile))
    live = {finding["rule"]: finding for finding in findings(run.folder)}
    afterwards = {status["RuleConfigurationName"]: status for status in evaluator.statuses()}
    assert len(afterwards) == len(rules.registry())
    judged = 0
    for name, verdict in statuses(run.folder).items():
        status = afterwards[name]
        if status["RuleEvaluationStatus"] == "NotEvaluated":
            assert "only statistics were saved" in status["StatusDetails"] or verdict == "NotEvaluated"
            continue
        assert status["RuleEvaluationStatus"] == verdict, name
        judged += 1
        for finding in status["Findings"]:
            assert (finding["step"], finding["tensor"]) == (live[name]["step"], live[name]["tensor"])
            assert finding["value"] == pytest.approx(float(live[name]["value"]), rel=1e-4, nan_ok=True)
    assert judged >= 8, "losses are saved whole, and most other rules need statistics only"


@pytest.mark.parametrize("name", ["LearningRateTooHigh", pytest.param("ExplodingTensor", marks=pytest.mark.slow)])
def test_rules_are_classes_of_smdebug(config: Compose, tmp_path: Path, name: str) -> None:
    """Run a rule as SageMaker's evaluator of custom rules does."""
    from smdebug.exceptions import NoMoreData, RuleEvaluationConditionMet
    from smdebug.rules.rule_invoker import invoke_rule
    from smdebug.trials import create_trial

    from sagehound.debugger import smdebug_rules

    run = train(config(*LOCAL, *RISING, "debugger.preflight=false", "debugger.save=true"), tmp_path / "run")
    rule = getattr(smdebug_rules, name)(create_trial(str(run.folder / "debugger/tensors")))
    live = next((f for f in findings(run.folder) if f["rule"] == name), None)
    with pytest.raises(RuleEvaluationConditionMet if live else NoMoreData):
        invoke_rule(rule, raise_eval_cond=True)
    assert bool(rule.report["RuleTriggered"]) == bool(live)
    if live:
        assert live["meaning"] in rule.report["Details"]["Finding"]


@pytest.mark.slow
def test_a_rule_of_your_own_as_a_class_of_smdebug(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smdebug.exceptions import RuleEvaluationConditionMet
    from smdebug.rules.rule_invoker import invoke_rule
    from smdebug.trials import create_trial

    from sagehound.debugger.smdebug_rules import smdebug_rule

    (tmp_path / "own_rules_of_smdebug.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    kind = importlib.import_module("own_rules_of_smdebug").LossBelow
    run = train(config(*LOCAL, "debugger.save=true"), tmp_path / "run")
    rule = smdebug_rule(kind)(create_trial(str(run.folder / "debugger/tensors")), limit=5)
    with pytest.raises(RuleEvaluationConditionMet, match="LossBelow at step 0"):
        invoke_rule(rule, raise_eval_cond=True)


@pytest.mark.slow
def test_histograms_are_logged_once_an_epoch(config: Compose, tmp_path: Path) -> None:
    run = train(config(*LOCAL, "trainer.max_epochs=3"), tmp_path / "run")
    events = EventAccumulator(str(run.folder / "tensorboard"), {"histograms": 0}).Reload()
    tags = events.Tags()["histograms"]
    assert {"weights/Classifier_head.0.weight", "gradients/gradient/Classifier_head.0.weight"} <= set(tags)
    points = events.Histograms("weights/Classifier_head.0.weight")
    assert len(points) == 3
    shown = points[0].histogram_value
    assert sum(shown.bucket) == shown.num > 0
    assert shown.min < 0 < shown.max
    without = train(config(*LOCAL, "debugger.histograms=false"), tmp_path / "without")
    assert not EventAccumulator(str(without.folder / "tensorboard")).Reload().Tags()["histograms"]


@pytest.mark.slow
def test_the_archive_is_the_one_without_it(config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify_by(monkeypatch, "server")
    archives = [
        (train(config(*given, "artifact=true"), tmp_path / name).folder / "model.tar.gz").read_bytes()
        for name, given in {"plain": [], "debugged": LOCAL}.items()
    ]
    assert archives[0] == archives[1]


@pytest.mark.slow
def test_the_command_evaluates_saved_tensors(config: Compose, sagehound: Command, tmp_path: Path) -> None:
    given = [*LOCAL, *RISING, "debugger.preflight=false", "debugger.save=true"]
    run = train(config(*given), tmp_path / "run")
    done = sagehound("debugger", str(run.folder), "--rule", "LearningRateTooHigh", "ratio=1.2")
    assert done.returncode == 0, done.stderr
    assert "LearningRateTooHigh        IssuesFound" in done.stdout
    assert "1 of 1 rules found something" in done.stdout
    live = next(f for f in findings(run.folder) if f["rule"] == "LearningRateTooHigh")
    assert findings(run.folder, "findings_saved.json")[0]["threshold"] < live["threshold"]
    for arguments, message in {
        (str(run.folder), "--rule", "nothing"): "debugger.rules.nothing: no such rule; choose from",
        (str(run.folder), "ratio=2"): "ratio=2: give --rule NAME, of which this is a parameter",
        (str(tmp_path / "none"),): "none: no such folder; give a run's folder",
        (str(tmp_path),): "no saved tensors: train with debugger=local debugger.save=true",
    }.items():
        done = sagehound("debugger", *arguments)
        assert done.returncode in (2, 3)
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_rule_of_your_own_live_and_afterwards(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_rules.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = ["+debugger.rules.mine._target_=own_rules.LossBelow", "+debugger.rules.mine.limit=5"]
    run = train(config(*LOCAL, *own, "debugger.save=true"), tmp_path / "run")
    live = next(f for f in findings(run.folder) if f["rule"] == "LossBelow")
    chosen = {"mine": {"_target_": "own_rules.LossBelow", "limit": 5}}
    afterwards = saved.evaluate(run.folder, Debugger(name="local", rules=chosen)).findings
    assert [(f.rule, f.step) for f in afterwards] == [("LossBelow", live["step"])]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("+debugger.rules.overfit.patienc=3", "the rule Overfit has no such parameter; it has start_step"),
        ("+debugger.rules.mine.action=stop", "debugger.rules.mine: no such rule; choose from all_zero"),
        ("debugger.profile=strict", "debugger.profile=strict"),
    ],
)
def test_a_wrong_rule_is_refused_before_any_photo_is_read(
    config: Compose, tmp_path: Path, given: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(config("debugger=local", given, f"data.root={tmp_path}/none"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_option_lists_every_rule(config: Compose) -> None:
    assert set(config("debugger=local").debugger.rules) == set(rules.registry())  # type: ignore[union-attr]


@pytest.mark.slow
def test_an_error_in_it_is_reported_once_and_training_continues(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sagehound.debugger import monitor

    def broken(tensor: torch.Tensor) -> None:
        raise MemoryError("no room")

    plain = train(config(), tmp_path / "plain")
    monkeypatch.setattr(monitor, "_copy", broken)
    run = train(config(*LOCAL), tmp_path / "run")
    printed = capsys.readouterr().out
    assert printed.count("warning: debugger: the rules are no longer evaluated (MemoryError: no room)") == 1
    assert same(plain, run)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_findings(config: Compose, tmp_path: Path) -> None:
    given = [*LOCAL, *RISING, "debugger.preflight=false"]
    run = train(config(*given), tmp_path / "run")
    before = findings(run.folder)
    assert before
    more = ["trainer.max_epochs=6", f"resume={run.folder}/checkpoints/last.ckpt"]
    train(config(*given, *more), run.folder)
    assert findings(run.folder)[: len(before)] == before


@pytest.mark.slow
def test_two_processes_stop_together(photos: Path, weights: Path, command: Command, tmp_path: Path) -> None:
    stop = "+debugger.rules.learning_rate_too_high.action=stop"
    given = [*small(photos, weights), *LOCAL, *RISING, stop, "trainer.devices=2", "trainer.max_epochs=8"]
    done = command(*given, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert "LearningRateTooHigh" in {finding["rule"] for finding in findings(tmp_path / "run")}
    assert "epoch 1/8" in done.stdout
    assert "epoch 3/8" not in done.stdout, "both processes have stopped"


@pytest.mark.slow
def test_the_real_command(photos: Path, weights: Path, command: Command, tmp_path: Path) -> None:
    done = command(*small(photos, weights), *LOCAL, *RISING, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert "warning: debugger: LearningRateTooHigh" in done.stdout
    assert findings(tmp_path / "run")


def test_the_config_names_every_check(config: Compose, tmp_path: Path) -> None:
    from sagehound.config.machine_keys import CHECKS
    from sagehound.debugger import preflight

    assert tuple(check.__name__ for check in preflight.CHECKS) == CHECKS
    run = train(config(*LOCAL, "debugger.checks=[one_batch]", "trainer.max_epochs=1"), tmp_path / "run")
    assert {name for name in statuses(run.folder) if name.startswith("Preflight/")} == {"Preflight/one_batch"}
