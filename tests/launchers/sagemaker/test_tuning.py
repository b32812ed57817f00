"""`python launch.py -m hpo=sagemaker`: one tuning job, in the emulator, and what every search leaves."""

import csv
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulator_helpers import client
from helpers import ROOT, Command, small_all
from omegaconf import OmegaConf

from sagehound.cli.previous_runs import with_best
from sagehound_launchers.sagemaker.tuning import point
from sagehound_launchers.search.space import overrides, parse
from sagemaker_emulator.server import Emulator

SEARCH = ["hpo=sagemaker", "aws=emulator", "hpo.study=mine", "optimizer.lr=tag(log,interval(1e-3,1e-1))"]
Control = Callable[..., Any]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def name_of(emulator: Emulator) -> str:
    """Of the only tuning job, with its local notes out of the way."""
    (job,) = tuning_jobs(emulator)
    for note in Path("multirun").glob("**/tuning_job.json"):
        note.rename(note.with_suffix(".away"))
    return str(job["HyperParameterTuningJobName"])


def tuning_jobs(emulator: Emulator) -> list[dict[str, Any]]:
    found = client(emulator, "sagemaker").list_hyper_parameter_tuning_jobs()
    return list(found["HyperParameterTuningJobSummaries"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["head.dropot=0.1,0.2"], "head.dropot: no such key (did you mean head.dropout?)"),
        (["optimizer.lr=-1,2"], "optimizer.lr=-1.0: must be above 0"),
        (["hpo.strategy=Grid", "optimizer.lr=interval(0.1,1)"], "a grid takes values, not intervals"),
        (["optimizer.lr=1,2", "debugger=sagemaker"], "SageMaker's tuning jobs carry no debugger: drop debugger=..."),
        (["optimizer.lr=1,2", "trainer=sagemaker"], "hpo=sagemaker runs its trials on SageMaker by itself"),
        (["optimizer.lr=1,2", "hpo.strategy=Hyperband", "hpo.early_stopping=true"], "stops trials by itself"),
        (["optimizer.lr=1,2", "hpo.warm_start=[a,b,c,d,e,f]"], "a tuning job learns from 5 others at most"),
        (["optimizer.lr=1,2", "hpo.pruner=median"], "hpo.pruner is Optuna's: with hpo=sagemaker give"),
        (
            ["optimizer.lr=1,2", "hpo.early_stopping=true", "hpo.objective=valid.ece"],
            "need an objective that is known after each epoch: choose hpo.objective=valid.loss or "
            "valid.top1 or valid.macro_f1",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_started(
    launch: Command, photos: Path, weights: Path, emulator: Emulator, arguments: list[str], message: str
) -> None:
    done = launch(*small_all(photos, weights), "hpo=sagemaker", "aws=emulator", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert tuning_jobs(emulator) == []


@pytest.mark.slow
def test_a_search_with_faults_and_training_with_its_best(
    launch: Command,
    command: Command,
    photos: Path,
    weights: Path,
    tmp_path: Path,
    emulator: Emulator,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = [*small_all(photos, weights), *SEARCH, "data.batch_size=5,8", "trainer.max_epochs=1"]
    dry = launch("-m", *given, "dry_run=true", "hpo.study=dry")
    assert dry.returncode == 0, dry.stderr
    assert tuning_jobs(emulator) == []
    ranges = json.loads((tmp_path / "multirun/dry/request.json").read_text())["HyperParameterTuningJobConfig"]
    assert ranges["ParameterRanges"]["ContinuousParameterRanges"][0]["ScalingType"] == "Logarithmic"
    lost = [{"operation": "CreateHyperParameterTuningJob", "kind": "drop", "after": True}]
    busy = [
        {"operation": "ListTrainingJobsForHyperParameterTuningJob", "kind": k} for k in ("throttle", "error", "drop")
    ]
    control("faults", [*lost, *busy])
    done = launch("-m", *given, "hpo.max_jobs=2", "hpo.max_parallel_jobs=2", "hpo.strategy=Random")
    assert done.returncode == 0, done.stderr + done.stdout
    (job,) = tuning_jobs(emulator)
    assert job["HyperParameterTuningJobStatus"] == "Completed"
    folder = tmp_path / "multirun/mine"
    found = rows(folder)
    assert [(r["trial"], r["state"]) for r in found] == [(str(i), "complete") for i in range(2)]
    best = min(found, key=lambda r: float(r["objective"]))
    said = client(emulator, "sagemaker").describe_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=job["HyperParameterTuningJobName"]
    )["BestTrainingJob"]
    assert said["TunedHyperParameters"]["optimizer.lr"] == best["optimizer.lr"], "to the last digit"
    assert said["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == pytest.approx(float(best["objective"]))
    winning = OmegaConf.load(folder / "best.yaml")
    assert winning["optimizer.lr"] == best["optimizer.lr"]
    assert winning["data.root"] == str(photos), "a folder of this machine"
    assert "aws" not in winning
    assert (folder / "plots/hyperparameters.png").stat().st_size > 5_000
    again = launch("-m", *given, "hpo.max_jobs=2", "hpo.max_parallel_jobs=2", "hpo.strategy=Random")
    assert again.returncode == 0, again.stderr
    assert "following the tuning job" in again.stdout
    assert len(tuning_jobs(emulator)) == 1
    assert rows(folder) == found
    trained = command("best=multirun/mine", "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["valid"]["loss"] == pytest.approx(float(best["objective"])), "the same training as the trial's"
    for name, value in {"ENDPOINT_URL": emulator.url, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    by_name = command(f"best={job['HyperParameterTuningJobName']}", *small_all(photos, weights), "--cfg", "job")
    assert by_name.returncode == 0, by_name.stderr
    assert OmegaConf.create(by_name.stdout).optimizer.lr == float(best["optimizer.lr"])
    nobody = command("best=nobody", *small_all(photos, weights))
    assert nobody.returncode == 2
    assert "best=nobody: no such folder here: give that of a finished search" in nobody.stderr
    assert "looking for a tuning job: ResourceNotFound" in nobody.stderr
    other = launch("-m", *given, "hpo.max_jobs=3", "hpo.max_parallel_jobs=2", "hpo.strategy=Random")
    assert other.returncode == 2
    assert "with other settings (ResourceLimits): give hpo.study=ANOTHER; hpo.warm_start=[" in other.stderr
    typo = launch("-m", *given, "hpo.study=warm", "hpo.warm_start=[nope]")
    assert typo.returncode == 2
    assert "hpo.warm_start=nope: there is no such tuning job" in typo.stderr
    for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    there = with_best([f"best={job['HyperParameterTuningJobName']}"])
    assert f"data.root={photos}" in there, "with the photos and weights of the search that was followed here"
    asked = with_best(["best=" + name_of(emulator), "aws=emulator", f"aws.folder={tmp_path / '.emulator'}"])
    assert f"optimizer.lr={best['optimizer.lr']}" in asked


@pytest.mark.slow
def test_a_search_that_was_refused_may_be_given_again(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, emulator: Emulator, control: Control
) -> None:
    given = [*small_all(photos, weights), *SEARCH, "hpo.max_jobs=1", "trainer.max_epochs=1", "aws.patience_minutes=0"]
    control("quotas", {"ml.m5.large": 0})
    refused = launch(*given)
    control("quotas", {"ml.m5.large": 5})
    assert refused.returncode in (2, 4), refused.stdout  # where it is started, or where its jobs are
    done = launch(*given)
    assert done.returncode == 0, done.stderr
    # every answer to the creation is lost: whether there is a job is asked, and there is one
    control("faults", [{"operation": "CreateHyperParameterTuningJob", "kind": "drop", "after": True, "times": 20}])
    lost = launch(*given, "hpo.study=lost")
    assert lost.returncode == 0, lost.stderr
    assert len([j for j in tuning_jobs(emulator) if j["HyperParameterTuningJobStatus"] == "Completed"]) == 2


@pytest.mark.slow
def test_a_job_whose_trials_all_fail(launch: Command, photos: Path, weights: Path, emulator: Emulator) -> None:
    for photo in photos.rglob("*.jpg"):
        photo.write_bytes(b"no photo")
    done = launch(*small_all(photos, weights), *SEARCH, "hpo.max_jobs=1")
    assert done.returncode == 4, done.stderr
    assert "tuning job sagehound-" in done.stderr.splitlines()[-1]
    assert "no usable photo is left" in done.stderr.splitlines()[-1]
    assert re.search(r"trial 0: failed, no objective: .*: .*no usable photo is left", done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [False, True])
def test_ctrl_c_stops_the_job_only_if_asked(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, emulator: Emulator, asked: bool
) -> None:
    given = [*small_all(photos, weights), *SEARCH, "hpo.max_jobs=2", f"aws.stop_on_interrupt={str(asked).lower()}"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *given], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("trial 0: complete"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert len(errors.splitlines()) == 1
    assert ("is being stopped" if asked else "goes on; hpo.study=mine follows it again") in errors
    again = launch(*given)
    assert again.returncode == 0, again.stderr
    states = [r["state"] for r in rows(tmp_path / "multirun/mine")]
    assert states[0] == "complete"
    assert states == ["complete", "complete"] or asked
    (job,) = tuning_jobs(emulator)
    assert job["HyperParameterTuningJobStatus"] == ("Stopped" if asked else "Completed")


@pytest.mark.slow
def test_hyperband_ends_the_worse_trials_and_completes_others(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, emulator: Emulator
) -> None:
    given = [*small_all(photos, weights), "hpo=sagemaker", "aws=emulator", "hpo.study=band", "hpo.strategy=Hyperband"]
    done = launch(*given, "trainer.max_epochs=3", "optimizer.lr=0.05,1e-7,1e-8", "hpo.max_jobs=3")
    assert done.returncode == 0, done.stderr + done.stdout
    states = [r["state"] for r in rows(tmp_path / "multirun/band")]
    assert len(states) == 3
    assert "complete" in states, "one that has trained to its end is not stopped on the way out"
    assert set(states) <= {"complete", "stopped"}
    assert (tmp_path / "multirun/band/best.yaml").exists()


def test_what_the_service_says_becomes_the_override_that_was_sent() -> None:
    space = parse(["lr=interval(0.1,1)", "n=range(1,9)", "b=32,64", "layers=[512,256],[8]"])
    said = {"lr": "0.30000000000000004", "n": "3", "b": '"64"', "layers": "[512,256]"}
    assert overrides(point(said, space)) == ["lr=0.30000000000000004", "n=3", "b=64", "layers=[512,256]"]
