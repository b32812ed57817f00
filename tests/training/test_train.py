"""What a run learns, leaves behind, repeats and survives; through train(), with real photos of a few pixels."""

import csv
import errno
import hashlib
import json
import os
import shlex
import shutil
import signal
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers import Compose
from run_helpers import curves, same_weights, weights_of
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sagehound.config import Backbone
from sagehound.errors import ConfigError, InputError, SagehoundError, Stopped
from sagehound.inference import handler
from sagehound.models import backbone, weights_pack
from sagehound.models.classifier import Classifier
from sagehound.runs.trained_model import load
from sagehound.training.stop import stopped
from sagehound.training.train import train


@pytest.mark.slow
def test_a_run_learns_and_leaves_what_is_promised(
    config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(
        config(
            "finetune=full",
            "trainer.max_epochs=8",
            "optimizer.lr=0.01",
            "finetune.backbone_lr=1",
            "report=true",
            "results=all",
        ),
        tmp_path / "run",
    )
    left = {p.relative_to(run.folder).as_posix() for p in run.folder.rglob("*") if p.is_file()}
    assert {
        "config.yaml",
        "metrics.json",
        "predictions.csv",
        "per_class.csv",
        "audit.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "history.csv",
        "confusions.csv",
        "plots/curves.png",
        "plots/confusion.png",
        "plots/accuracy_by_class_size.png",
        "plots/worst_mistakes.png",
        "plots/reliability.png",
        "report.html",
    } <= left
    assert not [p for p in left if p.endswith(".tmp")]
    assert "The weights that were kept: " in (run.folder / "report.html").read_text()

    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics == run.metrics
    assert {s: metrics[s]["photos"] for s in ("train", "valid", "test")} == {"train": 24, "valid": 9, "test": 12}
    named = {"top1", "top5", "macro_f1", "loss", "ece"}
    assert set(metrics["test"]) == named | {f"{n}_interval" for n in named} | {"ece_uncalibrated", "photos"}
    assert set(metrics["seconds"]) == {"data", "model", "features", "train", "evaluate"}
    assert metrics["test"]["top1"] >= 0.9, "three plain colours are learned in eight epochs"

    with (run.folder / "predictions.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 24 + 9 + 12
    right = [r["label"] == r["prediction"] for r in rows if r["split"] == "test"]
    assert sum(right) / len(right) == pytest.approx(metrics["test"]["top1"], abs=1e-6)
    assert rows[0]["top5"].startswith(f"{rows[0]['prediction']}:")

    with (run.folder / "per_class.csv").open() as f:
        classes = list(csv.DictReader(f))
    assert [(c["class"], c["train"], c["valid"], c["test"]) for c in classes] == [
        (name, "8", "3", "4") for name in ("Amber", "Moss", "Slate")
    ]
    assert sum(int(c["correct"]) for c in classes) == sum(right)

    drawn = curves(run.folder)
    assert len(drawn["valid/loss"]) == len(drawn["train/loss"]) == 8
    assert drawn["valid/loss"][-1][1] < drawn["valid/loss"][0][1]
    events = [EventAccumulator(str(p)).Reload().Tags() for p in (run.folder / "tensorboard").glob("events*")]
    assert {"curves", "confusion", "accuracy_by_class_size", "worst_mistakes", "reliability"} <= {
        t for e in events for t in e["images"]
    }
    assert "config/text_summary" in {t for e in events for t in e["tensors"]}
    assert "_hparams_/session_start_info" in {
        t for e in events for t in e.get("tensors", []) + list(e.get("scalars", []))
    } | {
        tag
        for p in (run.folder / "tensorboard").glob("events*")
        for tag in EventAccumulator(str(p)).Reload().summary_metadata
    }

    printed = capsys.readouterr().out
    assert "epoch 8/8: valid loss" in printed
    low, high = metrics["test"]["top1_interval"]
    assert low <= metrics["test"]["top1"] <= high
    interval = f"{100 * low:.1f} to {100 * high:.1f}"
    assert f"test accuracy: {metrics['test']['top1']:.1%} (95 % interval {interval})" in printed
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("test  ")]
    assert " ".join(row[2:5]) == interval, "beside top-1 in the final table"
    assert "top-5" not in printed, "of three classes, the label is always among the five most probable"
    assert str(run.folder) in printed


def test_a_trial_prints_the_scores_of_the_valid_photos_alone(
    config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(config("results=scores"), tmp_path / "run")
    printed = capsys.readouterr().out.splitlines()
    assert not [line for line in printed if line.startswith(("test ", "test accuracy"))], "it tempts to choose by it"
    assert f"valid accuracy: {run.metrics['valid']['top1']:.1%} (95 % interval " in printed[-2]
    assert {"top1", "loss"} <= json.loads((run.folder / "metrics.json").read_text())["test"].keys()


@pytest.mark.parametrize(("name", "best"), [("loss", min), ("macro_f1", max)])
def test_the_best_weights_are_the_ones_that_are_tested(
    config: Compose, tmp_path: Path, name: str, best: Callable[[list[float]], float]
) -> None:
    run = train(config("trainer.max_epochs=4", f"trainer.monitor=valid.{name}"), tmp_path / "run")
    values = [value for _, value in curves(run.folder)[f"valid/{name}"]]
    assert run.metrics["valid"][name] == pytest.approx(best(values), rel=1e-4)
    assert run.metrics["best_epoch"] == values.index(best(values)) + 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(config: Compose, tmp_path: Path) -> None:
    overrides = ["finetune=full", "augment=strong", "head.hidden=[8]", "head.dropout=0.3"]
    a = train(config(*overrides, "data.workers=0"), tmp_path / "a")
    b = train(config(*overrides, "data.workers=3"), tmp_path / "b")
    other = train(config(*overrides, "seed=1"), tmp_path / "c")
    assert same_weights(a.folder, b.folder)
    assert {**a.metrics, "seconds": 0} == {**b.metrics, "seconds": 0}
    assert not same_weights(a.folder, other.folder)


VARIANTS = {
    "head": [
        "data.sampling=balanced",
        "head.hidden=[8]",
        "head.dropout=0.3",
        "schedule=plateau",
        "schedule.patience=0",
    ],
    "gradual": [
        *("finetune=gradual", "finetune.start=random", "finetune.head_epochs=2"),
        *("optimizer=sgd", "finetune.freeze_norm=false"),
    ],
    "solved": ["finetune=gradual", "finetune.head_epochs=1", "optimizer=sgd", "finetune.freeze_norm=false"],
    "full": ["finetune=full", "augment=strong", "trainer.ema=0.5", "trainer.accumulate=2", "optimizer=adam"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "moment"),
    [
        ("head", "inside an epoch"),
        ("head", "in validation"),
        ("gradual", "inside an epoch"),
        ("gradual", "at the end of an epoch"),
        ("solved", "inside an epoch"),
        ("full", "inside an epoch"),
        ("full", "at the end of an epoch"),
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, moment: str
) -> None:
    overrides = [*VARIANTS[variant], "trainer.max_epochs=4"]
    whole = train(config(*overrides), tmp_path / "whole")

    def kill_once(trainer: Any, when: tuple[int, int], now: tuple[int, int]) -> None:  # noqa: ANN401
        if now == when and not getattr(trainer, "killed", False):
            trainer.killed = True
            os.kill(os.getpid(), signal.SIGTERM)

    step, validation = Classifier.training_step, Classifier.validation_step
    batch = {"inside an epoch": 1, "at the end of an epoch": 4, "in validation": -1}[moment]

    def training_step(self: Classifier, *args: Any) -> Any:  # noqa: ANN401
        kill_once(self.trainer, (2, batch), (self.current_epoch, args[1]))
        return step(self, *args)

    def validation_step(self: Classifier, *args: Any) -> Any:  # noqa: ANN401
        kill_once(self.trainer, (2, -1 if batch == -1 else -2), (self.current_epoch, -1))
        return validation(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "training_step", training_step)
        patched.setattr(Classifier, "validation_step", validation_step)
        with pytest.raises(Stopped, match="stopped by SIGTERM; resume with") as stopped:
            train(config(*overrides), tmp_path / "stopped")
    assert stopped.value.exit_code == 143
    assert not (tmp_path / "stopped/metrics.json").exists()

    last = tmp_path / "stopped/checkpoints/last.ckpt"
    resumed = train(config(*overrides, f"resume={last}"), tmp_path / "stopped")
    assert same_weights(whole.folder, resumed.folder)
    assert (resumed.folder / "history.csv").read_text() == (whole.folder / "history.csv").read_text()
    assert curves(resumed.folder) == curves(whole.folder)
    assert {**resumed.metrics, "seconds": 0} == {**whole.metrics, "seconds": 0}


@pytest.mark.slow
def test_a_finished_run_that_is_resumed_is_only_evaluated_again(config: Compose, tmp_path: Path) -> None:
    run = train(config(), tmp_path / "run")
    before = weights_of(run.folder)
    again = train(config(f"resume={run.folder / 'checkpoints/last.ckpt'}"), tmp_path / "run")
    assert all(torch.equal(before[k], v) for k, v in weights_of(again.folder).items())
    assert (run.folder / "history.csv").read_text().count("\n") == 3, "two epochs and the names of the columns"
    assert {**again.metrics, "seconds": 0} == {**run.metrics, "seconds": 0}


@pytest.mark.slow
def test_a_finished_run_can_be_given_more_epochs(config: Compose, tmp_path: Path) -> None:
    overrides = ["schedule=constant", "optimizer.lr=0.01"]
    whole = train(config(*overrides, "trainer.max_epochs=3"), tmp_path / "whole")
    train(config(*overrides, "trainer.max_epochs=2"), tmp_path / "run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    more = train(config(*overrides, "trainer.max_epochs=3", f"resume={last}"), tmp_path / "run")
    assert same_weights(whole.folder, more.folder)
    history = (whole.folder / "history.csv").read_text()
    assert history.splitlines()[0] == "epoch,train_loss,train_top1,valid_loss,valid_top1,valid_macro_f1"
    assert [line.split(",")[0] for line in history.splitlines()[1:]] == ["1", "2", "3"]
    assert (more.folder / "history.csv").read_text() == history, "the epochs before the resume are in it"
    drawn = curves(whole.folder)
    for i, e in enumerate(csv.DictReader(history.splitlines())):
        for column in ("train_loss", "train_top1", "valid_loss", "valid_top1", "valid_macro_f1"):
            assert float(e[column]) == pytest.approx(drawn[column.replace("_", "/", 1)][i][1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule", [["schedule=cosine", "schedule.warmup_epochs=1"], ["schedule=plateau", "schedule.patience=0"]]
)
def test_more_epochs_are_trained_at_the_rates_of_the_new_schedule(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: list[str]
) -> None:
    overrides = [*schedule, "data.batch_size=24", "optimizer.lr=0.01"]  # one batch an epoch
    rates: list[list[float]] = []
    step = Classifier.training_step

    def training_step(self: Classifier, *args: Any) -> Any:  # noqa: ANN401
        rates.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])
        return step(self, *args)

    monkeypatch.setattr(Classifier, "training_step", training_step)
    train(config(*overrides, "trainer.max_epochs=4"), tmp_path / "whole")
    expected = rates[2:]
    train(config(*overrides, "trainer.max_epochs=2"), tmp_path / "run")
    rates.clear()
    train(config(*overrides, "trainer.max_epochs=4", f"resume={tmp_path}/run/checkpoints/last.ckpt"), tmp_path / "run")
    assert rates == expected
    assert all(rate > 0 for groups in rates for rate in groups)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("head.hidden=[4]", r"head.hidden=\[4\]: the run that is resumed has head.hidden=\[\]"),
        ("optimizer.lr=0.5", r"optimizer.lr=0.5: the run that is resumed has optimizer.lr=0.002"),
        ("finetune=full", r"finetune.name=full: the run that is resumed has finetune.name=head"),
        ("data.batch_size=7", r"data.batch_size=7: the run that is resumed has data.batch_size=5"),
    ],
)
def test_a_resume_may_not_change_what_the_run_hangs_on(
    config: Compose, tmp_path: Path, change: str, message: str
) -> None:
    train(config("trainer.max_epochs=1"), tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        train(config(change, f"resume={tmp_path}/run/checkpoints/last.ckpt"), tmp_path / "other")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.name=resnet35"], "timm has no such model; did you mean resnet"),
        (["backbone.weights=missing.pth"], "no such file"),
        (["backbone.weights={file}"], "not a file of weights"),
        (["resume={file}"], "no checkpoint, or a broken one"),
        (["trainer.accelerator=gpu"], "torch sees no GPU here"),
    ],
)
def test_what_cannot_work_is_refused_before_photos_are_made(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], message: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    file = tmp_path / "file"
    file.write_text("neither weights nor a checkpoint")
    demo = ["data=demo", f"data.root={tmp_path}/demo", *(o.format(file=file) for o in overrides)]
    with pytest.raises(SagehoundError, match=message):
        train(config(*demo), tmp_path / "run")
    assert not (tmp_path / "demo").exists()


def changed(path: Path, change: dict[str, Any]) -> Path:
    """A copy of a checkpoint with other entries."""
    torch.save(torch.load(path, weights_only=True) | change, path.with_name("changed.ckpt"))
    return path.with_name("changed.ckpt")


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_resumed(config: Compose, tmp_path: Path) -> None:
    """Its config had no loss, and wrote the optimizer's own defaults down."""
    train(config("trainer.max_epochs=1"), tmp_path / "run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    before = torch.load(last, weights_only=True)["config"]
    del before["loss"], before["optimizer"]["_target_"]
    before["optimizer"] |= {"eps": 1e-8, "betas": [0.9, 0.999]}
    train(config("trainer.max_epochs=2", f"resume={changed(last, {'config': before})}"), tmp_path / "run")
    before["optimizer"]["eps"] = 1e-3
    with pytest.raises(ConfigError, match=r"optimizer.eps=null: the run that is resumed has optimizer.eps=0.001"):
        train(config("trainer.max_epochs=2", f"resume={changed(last, {'config': before})}"), tmp_path / "run")


@pytest.mark.slow
def test_a_checkpoint_of_other_kinds_is_refused(config: Compose, tmp_path: Path) -> None:
    train(config("trainer.max_epochs=1"), tmp_path / "run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    changes: list[dict[str, Any]] = [
        {"config": 3},
        {"config": {"head": 3}},
        {"epoch": "1"},
        {"classes": "ab"},
        {"classes": [1]},
        {"callbacks": {"a": 1}},
        {"state_dict": []},
    ]
    for change in changes:
        with pytest.raises(InputError, match="not a checkpoint of a run"):
            train(config(f"resume={changed(last, change)}"), tmp_path / "other")


def test_a_resume_with_other_classes_is_refused(config: Compose, tmp_path: Path, photos: Path) -> None:
    train(config("trainer.max_epochs=1"), tmp_path / "run")
    for split in ("train", "valid", "test"):
        (photos / split / "001.Amber").rename(photos / split / "001.Zebra")
    with pytest.raises(InputError, match="was trained with other classes than these photos have: Amber, Zebra"):
        train(config(f"resume={tmp_path}/run/checkpoints/last.ckpt"), tmp_path / "run")


@pytest.mark.parametrize("content", ["text", "tensors"])
def test_a_file_that_is_no_checkpoint_is_refused(config: Compose, tmp_path: Path, content: str) -> None:
    path = tmp_path / "last.ckpt"
    if content == "text":
        path.write_bytes(b"not a checkpoint")
    else:
        torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"last\.ckpt.*(no|not a) checkpoint"):
        train(config(f"resume={path}"), tmp_path / "run")


@pytest.mark.slow
def test_a_run_that_was_moved_remembers_its_best_epoch(config: Compose, tmp_path: Path) -> None:
    overrides = ["schedule=constant", "optimizer=sgd", "optimizer.lr=1e-6"]
    first = train(config(*overrides, "trainer.max_epochs=1"), tmp_path / "run")
    best = tmp_path / "run/checkpoints/best.ckpt"
    spoilt = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    spoilt["state_dict"]["head.0.bias"] += torch.tensor([50.0, 0, 0])  # the next epoch will be far worse
    shutil.move(tmp_path / "run", tmp_path / "moved")
    torch.save(spoilt, tmp_path / "moved/checkpoints/last.ckpt")
    assert not best.exists()
    again = f"resume={tmp_path}/moved/checkpoints/last.ckpt"
    moved = train(config(*overrides, "trainer.max_epochs=2", again), tmp_path / "moved")
    assert moved.metrics["best_epoch"] == 1
    assert moved.metrics["valid"] == first.metrics["valid"]


@pytest.mark.slow
def test_a_run_that_ended_early_is_not_trained_on(config: Compose, tmp_path: Path) -> None:
    overrides = [
        "trainer.patience=1",
        "trainer.max_epochs=9",
        "optimizer=sgd",
        "optimizer.lr=1e-30",
        "schedule=constant",
    ]
    run = train(config(*overrides), tmp_path / "run")
    before = weights_of(run.folder)
    again = train(config(*overrides, f"resume={tmp_path}/run/checkpoints/last.ckpt"), tmp_path / "run")
    assert torch.load(run.folder / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 1
    assert all(torch.equal(before[k], v) for k, v in weights_of(again.folder).items())


@pytest.mark.slow
def test_gradual_fine_tuning_teaches_the_backbone_after_the_head(
    config: Compose, tmp_path: Path, weights: Path
) -> None:
    from safetensors.torch import load_file

    overrides = ["finetune=gradual", "finetune.start=random", "finetune.head_epochs=1", "finetune.backbone_lr=1"]
    overrides.append("schedule=constant")
    run = train(config(*overrides, "trainer.max_epochs=2", "trainer.patience=1"), tmp_path / "run")
    assert run.metrics["best_epoch"] in (1, 2)
    before, after = load_file(weights), weights_of(run.folder)
    learned = [k for k in before if k.endswith("weight") and not k.startswith("fc.")]
    assert not any(torch.equal(before[k], after[f"backbone.{k}"]) for k in learned)
    head_only = train(
        config("finetune=head", "schedule=constant", "augment=light", "trainer.max_epochs=1"), tmp_path / "head"
    )
    first = dict(curves(run.folder)["valid/loss"])
    assert first[min(first)] == pytest.approx(head_only.metrics["valid"]["loss"], rel=1e-4), (
        "the first epoch is the head's"
    )


def test_a_loss_that_is_no_number_stops_with_advice(config: Compose, tmp_path: Path) -> None:
    overrides = ["optimizer=sgd", "optimizer.lr=1e38", "schedule=constant", "trainer.gradient_clip=null"]
    with pytest.raises(
        SagehoundError, match=r"loss became (nan|inf) at step \d+ \(epoch 1\).*learning rate.*try optimizer.lr=1e\+37"
    ):
        train(config(*overrides), tmp_path / "run")


def test_training_ends_early_when_it_no_longer_gets_better(config: Compose, tmp_path: Path) -> None:
    overrides = [
        "trainer.patience=1",
        "trainer.max_epochs=30",
        "optimizer=sgd",
        "optimizer.lr=1e-30",
        "schedule=constant",
    ]
    run = train(config(*overrides), tmp_path / "run")
    assert len(curves(run.folder)["valid/loss"]) == 2


def test_a_full_disk_is_one_clear_error_and_keeps_the_checkpoint(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_text

    def full(self: Path, *args: Any, **kwargs: Any) -> int:  # noqa: ANN401
        if "predictions" in self.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(SagehoundError, match=r"the disk is full: .*predictions\.csv.*resume=last"):
            train(config(), tmp_path / "run")
    assert not [p for p in (tmp_path / "run").rglob("*") if "predictions" in p.name], "nothing half written is left"
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert train(config(f"resume={last}"), tmp_path / "run").metrics["test"]["photos"] == 12


def test_a_full_disk_while_a_checkpoint_is_written(
    config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config("trainer.max_epochs=1", "schedule=constant"), tmp_path / "run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    before = hashlib.sha256(last.read_bytes()).hexdigest()

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(SagehoundError, match=r"the disk is full: .*(best|last)\.ckpt"):
            train(config("trainer.max_epochs=2", "schedule=constant", f"resume={last}"), tmp_path / "run")
    assert hashlib.sha256(last.read_bytes()).hexdigest() == before


def test_fewer_valid_photos_than_devices(config: Compose, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.devices=10: each needs a valid photo, and there are 9"):
        train(config("trainer.devices=10", "trainer.accelerator=cpu"), tmp_path / "run")


def test_two_runs_do_not_share_a_folder(config: Compose, tmp_path: Path) -> None:
    from sagehound.storage.atomic import locked

    with locked(tmp_path / "run/.lock"), pytest.raises(SagehoundError, match="another run is writing to"):
        train(config(), tmp_path / "run")


def test_more_gpus_than_there_are(config: Compose, tmp_path: Path) -> None:
    gpus = torch.cuda.device_count()
    wanted = "accelerator=gpu" if not gpus else f"devices={gpus + 1}"
    with pytest.raises(ConfigError, match=f"trainer.{wanted}: torch sees"):
        train(config(f"trainer.{wanted}"), tmp_path / "run")


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.precision=bf16-mixed"],
        pytest.param(["trainer.channels_last=false"], marks=pytest.mark.slow),
        ["head.hidden=[16,8]", "trainer.gradient_clip=null"],
    ],
    ids=str,
)
def test_other_ways_to_compute_learn_too(config: Compose, tmp_path: Path, overrides: list[str]) -> None:
    learning = ["finetune=full", "trainer.max_epochs=6", "optimizer.lr=0.01", "finetune.backbone_lr=1"]
    assert train(config(*learning, *overrides), tmp_path / "run").metrics["train"]["top1"] >= 0.8


def test_a_head_run_leaves_the_backbone_as_it_was(config: Compose, tmp_path: Path, weights: Path) -> None:
    from safetensors.torch import load_file

    run = train(config("optimizer.lr=0.1"), tmp_path / "run")
    before, after = load_file(weights), weights_of(run.folder)
    kept = [k for k in before if not k.startswith("fc.")]
    assert len(kept) > 20
    assert all(torch.equal(before[k], after[f"backbone.{k}"]) for k in kept), "BatchNorm statistics included"


@pytest.mark.parametrize(
    ("started", "again"),
    [
        ("my code/train.py", ["python", "my code/train.py"]),
        ("launch.py", ["python", "launch.py"]),
        ("sagehound train", ["sagehound", "train"]),
        ("sagehound launch", ["sagehound", "launch"]),
        ("python -m sagehound.cli train", ["python", "-m", "sagehound.cli", "train"]),
        ("ipykernel_launcher.py", ["sagehound", "train"]),
    ],
)
def test_the_command_that_resumes_a_run_is_the_users_own_quoted_for_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: str, again: list[str]
) -> None:
    monkeypatch.setattr("sys.argv", [started])
    last = tmp_path / "my run/checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    said = str(stopped(signal.SIGTERM, last)).partition("resume with: ")[2]
    assert shlex.split(said) == [*again, f"resume={tmp_path}/my run"]


@pytest.mark.slow
def test_the_preprocessing_of_packed_weights_is_kept(config: Compose, weights: Path, tmp_path: Path) -> None:
    """A checkpoint is opened, and a run resumed, as it was trained, without the file of the weights."""
    model = backbone.build(Backbone("test_resnet", weights=str(weights)))
    about = weights_pack.describe(model)
    other = replace(about, preprocessing=about.preprocessing | {"crop_pct": 0.5, "input_size": (3, 64, 64)})
    path = tmp_path / "packed.safetensors"
    weights_pack.write(model, other, path)
    given = [f"backbone.weights={path}", "schedule=constant"]
    whole = train(config(*given, "trainer.max_epochs=2"), tmp_path / "whole")
    first = train(config(*given, "trainer.max_epochs=1"), tmp_path / "run")
    path.unlink()
    last = first.folder / "checkpoints/last.ckpt"
    assert (load(last).preprocessing.size, load(last).preprocessing.resize) == ((64, 64), 128)
    resumed = train(config(*given, "trainer.max_epochs=2", f"resume={last}"), first.folder)
    assert same_weights(whole.folder, resumed.folder)


@pytest.mark.slow
def test_a_size_of_photos_is_part_of_the_model_file(config: Compose, photos: Path, tmp_path: Path) -> None:
    """The position embeddings of a ViT are interpolated wherever the model is opened."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "vit.safetensors")
    given = ["backbone.name=test_vit", f"backbone.weights={tmp_path / 'vit.safetensors'}", "data.image_size=96"]
    run = train(config(*given, "finetune=full", "artifact=true"), tmp_path / "run")
    opened, checkpoint = load(run.folder / "model.tar.gz"), load(run.folder / "checkpoints/best.ckpt")
    assert opened.preprocessing.size == checkpoint.preprocessing.size == (96, 96)
    photo = next((photos / "test").rglob("*.jpg"))
    expected = checkpoint.predict(photo).probabilities
    assert opened.predict(photo).probabilities == pytest.approx(expected, abs=1e-4)
    with tarfile.open(run.folder / "model.tar.gz") as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    model = handler.model_fn(str(tmp_path / "unpacked"))
    ((served, _),) = handler.predict_fn(handler.input_fn(photo.read_bytes(), "image/jpeg"), model).results
    assert list(served) == pytest.approx(list(expected.values()), abs=1e-4)
    with pytest.raises(ConfigError, match=r"data\.image_size=112: the run that is resumed has data\.image_size=96"):
        train(
            config(*given[:2], "data.image_size=112", "finetune=full", f"resume={run.folder}/checkpoints/last.ckpt"),
            run.folder,
        )
