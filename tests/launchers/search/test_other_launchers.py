"""Sweeps and searches through launchers of other packages: submitit, which SLURM has, and joblib."""

import csv
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, Command, small_all
from omegaconf import OmegaConf

from sagehound.errors import Stopped

LOCAL = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"]
SWEEP = "hydra.sweep.dir=sweep"


def trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_grid_through_submitit(command: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    done = command("-m", *small_all(photos, weights), "optimizer.lr=0.01,0.02", *LOCAL, SWEEP)
    assert done.returncode == 0, done.stderr
    found = trials(tmp_path / "sweep")
    assert [(t["state"], t["optimizer.lr"]) for t in found] == [("complete", "0.01"), ("complete", "0.02")]
    for number, trial in enumerate(found):
        metrics = json.loads((tmp_path / "sweep" / str(number) / "metrics.json").read_text())
        assert float(trial["objective"]) == metrics["valid"]["loss"]
    best = min(found, key=lambda t: float(t["objective"]))
    assert OmegaConf.load(tmp_path / "sweep/best.yaml")["optimizer.lr"] == best["optimizer.lr"]
    again = command("-m", *small_all(photos, weights), "optimizer.lr=0.03,0.04", *LOCAL, SWEEP)
    assert again.returncode == 2
    assert "sweep holds another sweep" in again.stderr


@pytest.mark.slow
def test_a_search_through_submitit_resumes(launch: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    given = [
        "-m",
        "hpo=optuna",
        *small_all(photos, weights),
        "optimizer.lr=interval(0.01,0.1)",
        "hpo.study=s",
        *LOCAL,
    ]
    for most in (1, 2):
        done = launch(*given, "hpo.max_parallel_jobs=2", f"hpo.max_jobs={most}")
        assert done.returncode == 0, done.stderr
        assert [t["state"] for t in trials(tmp_path / "multirun/s")] == ["complete"] * most
    assert done.stdout.count("trial 1 (2 of 2)") == 1, "those that were done are not trained again"
    best = min(trials(tmp_path / "multirun/s"), key=lambda t: float(t["objective"]))
    assert OmegaConf.load(tmp_path / "multirun/s/best.yaml")["optimizer.lr"] == best["optimizer.lr"]


@pytest.mark.slow
def test_pruning_needs_trials_of_this_machine(launch: Command, photos: Path, weights: Path) -> None:
    pytest.importorskip("submitit")
    lr = "optimizer.lr=interval(0.01,0.1)"
    done = launch("-m", "hpo=optuna", *small_all(photos, weights), lr, "hpo.pruner=median", *LOCAL)
    assert done.returncode == 2
    assert "hpo.pruner=median needs trials on this machine, hydra/launcher=submitit_local runs them" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_job_that_dies_is_one_line(
    command: Command, photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends in the job, as it does where memory runs out; the trial beside it is kept."""
    pytest.importorskip("submitit")
    (tmp_path / "dying.py").write_text(
        "import os\n\n\n"
        "class Die:\n"
        "    def __init__(self, really: bool) -> None:\n        self.really = really\n\n"
        "    def __call__(self, photo):\n        return os._exit(9) if self.really else photo\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    die = ["finetune=full", "+augment.transform._target_=dying.Die", "+augment.transform.really=false,true"]
    done = command("-m", *small_all(photos, weights), *die, *LOCAL, SWEEP)
    assert done.returncode == 1, done.stderr
    assert "hydra/launcher=submitit_local: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert [(t["trial"], t["state"]) for t in trials(tmp_path / "sweep")] == [("0", "complete")]


@pytest.mark.slow
def test_a_grid_through_joblib_with_a_trial_that_fails(photos: Path, weights: Path, tmp_path: Path) -> None:
    """In a process of its own: joblib's workers do not start in a fork of the tests."""
    pytest.importorskip("joblib")
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    given = [*small_all(photos, weights), f"backbone.weights={weights},missing.safetensors"]
    program = [sys.executable, str(ROOT / "train.py"), "-m", *given, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = subprocess.run([*program, SWEEP], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 3, done.stderr
    assert "1 of 2 trials failed; the first, trial 1: backbone.weights=missing.safetensors" in done.stderr
    assert [t["state"] for t in trials(tmp_path / "sweep")] == ["complete", "failed"]


def test_a_signal_in_a_job_comes_back_as_what_it_was() -> None:
    found = pickle.loads(pickle.dumps(Stopped("stopped by SIGTERM", 15)))
    assert isinstance(found, Stopped)
    assert (str(found), found.exit_code) == ("stopped by SIGTERM", 143)
