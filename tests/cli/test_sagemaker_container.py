"""`train` as SageMaker runs it in a container: folders, hyperparameters, resuming, signals, failure reasons."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, Command, small

from sagehound.cli.hyperparameters import decode, values
from sagehound.system.console import metric_regex

TRAIN = [sys.executable, "-c", "from sagehound.cli.sagemaker_container import train; train()"]


def test_hyperparameters_of_a_real_job_are_decoded() -> None:
    hyperparameters = {
        "_tuning_objective_metric": '"average test loss"',
        "batch-size": '"64"',
        "eps": "8.953219621731109e-08",
        "lr": "0.0022684910380116703",
        "sagemaker_container_log_level": "20",
        "sagemaker_estimator_class_name": '"PyTorch"',
        "sagemaker_job_name": '"pytorch-training-2022-01-20-00-35-28-921"',
        "sagemaker_program": '"hpo.py"',
        "sagemaker_region": '"us-east-1"',
        "weight-decay": "0.015282046320745372",
    }
    assert values(hyperparameters) == {
        "batch-size": "64",
        "eps": "8.953219621731109e-08",
        "lr": "0.0022684910380116703",
        "weight-decay": "0.015282046320745372",
    }
    assert decode({"~augment": "", "head.hidden": "[512,256]"}, "x.json") == ["~augment", "head.hidden=[512,256]"]


class Container:
    """A folder in place of /opt/ml, in which `train` runs."""

    def __init__(self, base: Path, weights: Path, photos: Path | None, **given: str) -> None:
        self.base, self.home = base, ROOT
        (base / "input/config").mkdir(parents=True)
        data = base / "input/data"
        if photos:
            (data / "photos").mkdir(parents=True)
            for split in photos.iterdir():
                (data / "photos" / split.name).symlink_to(split)
        (data / "weights").mkdir(parents=True)
        (data / "weights" / weights.name).symlink_to(weights)
        self.write("hyperparameters", {k.replace("__", "."): v for k, v in {**SMALL, **given}.items()})
        self.write("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1"]})
        self.write("inputdataconfig", {"photos": {}, "weights": {}})

    def write(self, name: str, content: dict[str, Any]) -> None:
        (self.base / f"input/config/{name}.json").write_text(json.dumps(content))

    def start(self) -> "subprocess.Popen[str]":
        places = {"SAGEMAKER_EMULATOR_OPT_ML": str(self.base), "SAGEHOUND_HOME": str(self.home)}
        return subprocess.Popen(
            TRAIN, env=os.environ | places, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def train(self) -> tuple[int, str]:
        process = self.start()
        output = process.communicate(timeout=300)[0]
        return process.returncode, output

    @property
    def failure(self) -> str:
        return (self.base / "output/failure").read_text()

    def metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = json.loads((self.base / "output/data/metrics.json").read_text())
        return metrics


SMALL = {
    "data": '"folder"',
    "data__root": "/nowhere",
    "data__batch_size": '"5"',
    "backbone__name": "test_resnet",
    "backbone__weights": "/nowhere/either",
    "finetune": "full",
    "trainer__max_epochs": "2",
    "trainer__accelerator": "cpu",
    "artifact": "false",
}


@pytest.mark.slow
def test_a_job_writes_its_model_and_its_results(photos: Path, weights: Path, tmp_path: Path) -> None:
    container = Container(tmp_path / "ml", weights, photos, artifact="true", _tuning_objective_metric="valid.loss")
    code, output = container.train()
    assert code == 0, output
    assert (tmp_path / "ml/model/model.json").exists(), "SageMaker packs it as model.tar.gz"
    assert (tmp_path / "ml/model/code/inference.py").exists()
    left = {p.name for p in (tmp_path / "ml/output/data").iterdir()}
    assert {"metrics.json", "predictions.csv", "tensorboard", "plots", "config.yaml"} <= left
    assert "checkpoints" not in left
    metrics = container.metrics()
    for name in ("valid.loss", "valid.top1", "train.loss", "test.macro_f1"):
        split, score = name.split(".")
        printed = re.findall(metric_regex(name), output)
        assert float(printed[-1]) == metrics[split][score], "the last value is the run's own"
    assert len(re.findall(metric_regex("valid.loss"), output)) == 3, "one an epoch, and the best"
    assert len(re.findall(metric_regex("train.loss"), output)) == 3


def test_metric_lines_are_printed_only_in_containers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sagehound.system import console

    console.metric("valid.loss", 0.5)
    assert capsys.readouterr().out == ""
    monkeypatch.setenv(console.METRIC_LINES, "1")
    for value in (1e-7, 0.25, 12345678.9, float("nan"), float("inf")):
        console.metric("valid.loss", value)
    output = capsys.readouterr().out
    assert [float(v) for v in re.findall(metric_regex("valid.loss"), output)] == [
        1e-7,
        0.25,
        12345678.9,
    ], "one number format; nan and inf are not printed"
    assert re.findall(metric_regex("validxloss"), output) == []


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"optimizer__lr": "-1"}, "optimizer.lr=-1.0: must be above 0"),
        ({"optimizer__lrr": "1"}, "optimizer.lrr: no such key (did you mean optimizer.lr?)"),
    ],
)
def test_the_reason_of_a_failure_is_one_sentence(
    photos: Path, weights: Path, tmp_path: Path, given: dict[str, str], reason: str
) -> None:
    container = Container(tmp_path / "ml", weights, photos, **given)
    code, output = container.train()
    assert code == 2, output
    assert container.failure.startswith(reason)
    assert "\n" not in container.failure


@pytest.mark.slow
def test_a_job_without_photos_fails_with_a_reason(weights: Path, tmp_path: Path) -> None:
    container = Container(tmp_path / "ml", weights, None)
    code, output = container.train()
    assert code == 3, output
    assert "/nowhere" in container.failure


def test_broken_settings_of_the_service_are_reported(photos: Path, weights: Path, tmp_path: Path) -> None:
    container = Container(tmp_path / "ml", weights, photos)
    (container.base / "input/config/hyperparameters.json").write_text("{")
    code, output = container.train()
    assert code == 3
    assert "hyperparameters.json is not valid JSON" in output
    assert "hyperparameters.json is not valid JSON" in container.failure


@pytest.mark.slow
def test_an_interrupted_job_resumes(command: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    given = {"trainer__max_epochs": "4", "optimizer__lr": "0.01"}
    same = ["finetune=full", "trainer.max_epochs=4", "optimizer.lr=0.01", "hydra.run.dir=whole"]
    assert command(*small(photos, weights), *same).returncode == 0
    whole = json.loads((tmp_path / "whole/metrics.json").read_text())
    container = Container(tmp_path / "ml", weights, photos, **given)
    process = container.start()
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/4"):
            break
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 143, output
    assert "SIGTERM" in container.failure
    assert (container.base / "output/data/checkpoints/last.ckpt").exists(), "a stopped job uploads its checkpoint"
    resumed = Container(tmp_path / "resumed", weights, photos, **given)  # another machine
    (container.base / "checkpoints").rename(resumed.base / "checkpoints")
    code, output = resumed.train()
    assert code == 0, output
    assert "resuming from" in output
    assert "epoch 1/4" not in output
    for split in ("train", "valid", "test"):
        assert resumed.metrics()[split] == whole[split], "as of a run that nothing interrupts"


@pytest.mark.slow
def test_the_project_comes_from_its_channel(weights: Path, photos: Path, tmp_path: Path) -> None:
    container = Container(tmp_path / "ml", weights, photos)
    code = container.base / "input/data/code"
    code.mkdir()
    script = tmp_path / "train.py"
    script.write_text("import os, sys; print('mine', sys.argv[1:], os.environ['SM_HPS'], os.environ['PYTHONPATH'])")
    with tarfile.open(code / "source.tar.gz", "w:gz") as source:
        source.add(script, "train.py")
    status, output = container.train()
    assert status == 0, output
    assert "mine ['data=folder'" in output
    assert "overwrite" not in output
    run = container.base / "checkpoints/job/run"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    assert "overwrite=true" in container.train()[1], "without a checkpoint, an interrupted job starts again"
    (run / "checkpoints").mkdir()
    (run / "checkpoints/last.ckpt").touch()
    output = container.train()[1]
    assert f"resume='{run}/checkpoints/last.ckpt'" in output
    assert "overwrite" not in output
    assert str(container.base / "tmp/code/src") in output


def test_the_image_copies_existing_files() -> None:
    sent = (ROOT / ".dockerignore").read_text().split()
    copied = [line.split()[1:-1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    for name in [name for names in copied for name in names]:
        assert (ROOT / name).exists()
        assert f"!{name}" in sent, "docker ignores all other files"
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts.keys() == {"sagehound", "sagemaker-emulator"}, "train and serve belong only to the image"


@pytest.mark.slow
def test_the_image_has_train_and_serve_on_its_path(tmp_path: Path) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    (made,) = re.findall(r"^RUN (for name in .*?done)$", dockerfile, flags=re.DOTALL | re.MULTILINE)
    subprocess.run(["sh", "-c", made.replace("/usr/local/bin", str(tmp_path))], check=True)
    config = tmp_path / "ml/input/config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text('{"head.dropou": "1"}')
    environment = os.environ | {"SAGEMAKER_EMULATOR_OPT_ML": str(tmp_path / "ml")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name, reason in (("train", "head.dropou: no such key"), ("serve", "no such run or file")):
        done = subprocess.run([tmp_path / name], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode
        assert reason in done.stderr + done.stdout


@pytest.mark.slow
def test_without_a_project_the_installed_package_trains(weights: Path, photos: Path, tmp_path: Path) -> None:
    container = Container(tmp_path / "ml", weights, photos, head__dropou="1")
    container.home = tmp_path / "nowhere"
    status, output = container.train()
    assert status == 2, output
    assert "sagehound: head.dropou: no such key (did you mean head.dropout?)" in output
