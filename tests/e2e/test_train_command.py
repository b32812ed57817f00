"""The real command in its own process, as a user or a container runs it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, Command, make_photos, small, small_all

pytestmark = pytest.mark.slow


def only_run(folder: Path) -> Path:
    (run,) = folder.glob("outputs/*/*")
    return run


def test_a_run_of_the_real_command(command: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    done = command(*small(photos, weights), "artifact=true")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    run = only_run(tmp_path)
    assert run.name.endswith("-test_resnet")
    assert {"config.yaml", "overrides.yaml", "metrics.json", "audit.json", "model.tar.gz"} <= {
        p.name for p in run.iterdir()
    }
    assert not (run / "train.log").exists()
    assert "${" not in (run / "config.yaml").read_text(), "the config is resolved"
    lines = done.stdout.splitlines()
    assert lines[0] == "Reading photos (45)"
    assert [line for line in lines if line.startswith("epoch 2/2: valid loss")]
    accuracy = json.loads((run / "metrics.json").read_text())["test"]["top1"]
    assert lines[-2].startswith(f"test accuracy: {accuracy:.1%} (95 % interval ")
    assert lines[-1] == f"results: {run}"
    assert "\x1b" not in done.stdout, "no colours and no bars without a terminal"


def test_a_sweep_of_two(command: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    done = command(*small_all(photos, weights), "-m", "optimizer.lr=0.001,0.01", "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    assert [p.parent.name for p in sorted(tmp_path.glob("multirun/*/*/*/metrics.json"))] == ["0", "1"]
    assert not list(tmp_path.glob("multirun/*/*/*/checkpoints")), "a trial writes only scores"
    assert done.stdout.count("Computing features") == len(feature_stores()), "the second trial computes none"
    (folder,) = tmp_path.glob("multirun/*/*")
    with (folder / "trials.csv").open() as file:
        trials = list(csv.DictReader(file))
    for r in trials:
        metrics = json.loads((folder / r["trial"] / "metrics.json").read_text())
        assert (r["state"], float(r["objective"])) == ("complete", metrics["valid"]["loss"])
    best = min(trials, key=lambda r: float(r["objective"]))
    assert f"best trial: {best['trial']}, valid.loss" in done.stdout
    assert (folder / "plots/hyperparameters.png").exists()
    trained = command(f"best={folder}", "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["valid"]["loss"] == float(best["objective"]), "best= reproduces the best trial"


def feature_stores() -> list[Path]:
    return list(Path(os.environ["SAGEHOUND_CACHE"]).glob("features/*"))


def test_parallel_runs_compute_features_once(photos: Path, weights: Path, tmp_path: Path) -> None:
    runs = [start(photos, weights, tmp_path, "trainer.max_epochs=1", f"hydra.run.dir=run{i}") for i in range(2)]
    printed = [run.communicate(timeout=200) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], printed
    assert "".join(out for out, _ in printed).count("Computing features") == len(feature_stores())
    a, b = (json.loads((tmp_path / f"run{i}/metrics.json").read_text()) for i in range(2))
    assert a["test"] == b["test"]


def start(photos: Path, weights: Path, folder: Path, *overrides: str) -> subprocess.Popen[str]:
    arguments = [*small(photos, weights), "trainer.max_epochs=500", "schedule=constant", *overrides]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_epoch(process: "subprocess.Popen[str]", number: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"epoch {number}/"):
            return
    raise AssertionError(f"the run ended before epoch {number}: {process.communicate()[1]}")


@pytest.mark.parametrize(
    ("signum", "code", "overrides"),
    [
        (signal.SIGINT, 130, []),
        (signal.SIGTERM, 143, ["trainer.devices=2", "trainer.accelerator=cpu"]),
    ],
    ids=["Ctrl-C", "SIGTERM with two processes"],
)
def test_a_stopped_run_resumes_from_its_checkpoint(
    command: Command, photos: Path, weights: Path, tmp_path: Path, signum: int, code: int, overrides: list[str]
) -> None:
    process = start(photos, weights, tmp_path, *overrides)
    wait_for_epoch(process, 3)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    run = only_run(tmp_path)
    name = signal.Signals(signum).name
    assert errors == f"sagehound: stopped by {name}; resume with: python {ROOT / 'train.py'} resume={run}\n"
    assert (run / "checkpoints/last.ckpt").exists()
    assert not (run / "metrics.json").exists()

    import torch

    epoch = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"]
    done = command("resume=last", f"trainer.max_epochs={epoch + 2}", "trainer.devices=1")  # in any number of processes
    assert done.returncode == 0, done.stderr
    assert only_run(tmp_path) == run, "it continues in the same folder"
    assert (run / "metrics.json").exists()
    assert "epoch 2/" not in done.stdout
    assert "data.batch_size=5" in (run / "overrides.yaml").read_text(), "the run's own overrides are used"


def test_a_signal_before_the_first_step(photos: Path, weights: Path, tmp_path: Path) -> None:
    process = start(photos, weights, tmp_path)
    assert process.stdout is not None
    process.stdout.readline()  # the photos are being read
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.startswith("sagehound: stopped by SIGTERM")


@pytest.mark.parametrize(
    "variant",
    [
        ["finetune=head", "augment=light", "features.views=1"],
        pytest.param(["finetune=full", "augment=none"], marks=pytest.mark.slow),
    ],
    ids=["head", "full"],
)
def test_two_processes_train_like_one(command: Command, weights: Path, tmp_path: Path, variant: list[str]) -> None:
    """Two half batches are one batch: the same photos, so the same mean gradient."""
    photos = make_photos(tmp_path / "photos", train=8, valid=4, test=4)
    common = [*small(photos, weights), *variant, "optimizer=sgd", "trainer.max_epochs=3", "trainer.accelerator=cpu"]
    common.append("trainer.precision=32-true")
    runs = {"one": ["data.batch_size=8"], "two": ["data.batch_size=4", "trainer.devices=2"]}
    metrics = {}
    for name, overrides in runs.items():
        done = command(*common, *overrides, f"hydra.run.dir={name}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("epoch 3/3") == 1, "one process prints"
        metrics[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    for split in ("train", "valid", "test"):
        assert metrics["two"][split]["loss"] == pytest.approx(metrics["one"][split]["loss"], rel=1e-3)
    assert ("finetune_choice" in metrics["two"]) == ("finetune=full" in variant)


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["data.root=nowhere"], 3, "data.root=nowhere is not a folder"),
        (["backbone.weights=nowhere.pth"], 3, "backbone.weights=nowhere.pth: no such file"),
        (["backbone.name=test_vit"], 3, "does not fit backbone test_vit"),
        (["backbone.weights=null", "backbone.name=resnet35"], 2, "timm has no such model"),
        (["optimizer=sgd", "optimizer.lr=1e38", "trainer.gradient_clip=null"], 1, "the loss became"),
    ],
)
def test_bad_input_ends_in_one_line(
    command: Command, photos: Path, weights: Path, overrides: list[str], code: int, message: str
) -> None:
    done = command(*small(photos, weights), *overrides)
    assert done.returncode == code
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_training_on_real_photos(command: Command, real_data: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    done = command(
        "data=folder",
        f"data.root={real_data / 'woof10'}",
        "backbone=mobilenetv2",
        f"backbone.weights={real_data / 'weights/mobilenetv2_100.safetensors'}",
        "trainer.max_epochs=2",
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((only_run(tmp_path) / "metrics.json").read_text())
    assert metrics["test"]["top1"] >= 0.85, "the defaults reach 90 % in ten epochs; this is after two"
    assert sum(metrics["seconds"].values()) < time.monotonic() - started
    assert (only_run(tmp_path) / "plots/worst_mistakes.png").stat().st_size > 10_000
