"""`hpo.max_parallel_jobs`: trials in processes of their own, or in the batches of another launcher; pruning."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
import psutil
import pytest
from helpers import ROOT, Command, small_all
from optuna.distributions import BaseDistribution

from sagehound_launchers.search.samplers import make_sampler
from sagehound_launchers.search.space import parse, to_optuna

RATES = "optimizer.lr=0.01,0.02,0.03,0.05,0.04,0.06,1e-7"  # the last learns nothing

LAUNCHER = '''
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher


class BatchLauncher(Launcher):
    """Notes how many jobs it was given at once, then runs them as Hydra's own does."""

    def __init__(self):
        self.inner = BasicLauncher()

    def setup(self, **given):
        self.inner.setup(**given)

    def launch(self, job_overrides, initial_job_idx):
        with Path("batches.txt").open("a") as file:
            print(initial_job_idx, len(job_overrides), file=file)
        return self.inner.launch(job_overrides, initial_job_idx)


ConfigStore.instance().store(
    "batch", {"_target_": "hydra_plugins.batch.BatchLauncher"}, group="hydra/launcher", provider="test"
)
'''


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@contextmanager
def searching(arguments: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A search that has begun its first trials in two processes; none is left at the end."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), "-m", "hpo=optuna", "hpo.max_parallel_jobs=2", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.communicate()


def training(process: subprocess.Popen[str], folder: Path, number: int) -> psutil.Process:
    """The process that trains a trial, once it has finished an epoch."""
    output = folder / str(number) / "output.txt"
    while process.poll() is None:
        if output.exists() and "epoch 1/" in output.read_text():
            for child in psutil.Process(process.pid).children(recursive=True):
                if any(Path(f.path) == output for f in child.open_files()):
                    return child
        time.sleep(0.05)
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_processes_find_what_one_process_finds(launch: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    given = [
        *small_all(photos, weights),
        "optimizer.lr=tag(log,interval(1e-3,1e-1))",
        "data.batch_size=5,8",
        "head.dropout=0.1",
    ]
    search = ["-m", "hpo=optuna", "hpo.sampler=qmc", "hpo.max_jobs=4"]
    one = launch(*given, *search, "hpo.study=one")
    assert one.returncode == 0, one.stderr
    two = launch(*given, *search, "hpo.study=two", "hpo.max_parallel_jobs=2")
    assert two.returncode == 0, two.stderr
    found = [rows(tmp_path / "multirun" / study) for study in ("one", "two")]
    for r in found[0] + found[1]:
        del r["seconds"]
    assert found[0] == found[1]
    assert [r["trial"] for r in found[1]] == ["0", "1", "2", "3"]
    assert "epoch" not in two.stdout, "what a trial prints is in its folder"
    assert "epoch 2/2" in (tmp_path / "multirun/two/3/output.txt").read_text()
    assert "\x1b" not in (tmp_path / "multirun/two/3/output.txt").read_text()
    for r in found[1]:
        metrics = json.loads((tmp_path / "multirun/two" / r["trial"] / "metrics.json").read_text())
        assert float(r["objective"]) == metrics["valid"]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_search_ends_with_all_its_processes_and_goes_on(
    photos: Path, weights: Path, tmp_path: Path, signum: int
) -> None:
    given = [*small_all(photos, weights), RATES, "hpo.study=s", "trainer.max_epochs=100000"]
    folder = tmp_path / "multirun/s"
    with searching(given, tmp_path) as process:
        children = [training(process, folder, number) for number in (0, 1)]
        process.send_signal(signum)
        printed, errors = process.communicate()
        assert not psutil.wait_procs(children, timeout=30)[1], "none is left"
    assert process.returncode == (-signum if signum == signal.SIGKILL else 128 + signum)
    if signum != signal.SIGKILL:
        assert f"resume with: python {ROOT / 'launch.py'} -m hpo=optuna " in errors
        assert errors.endswith(" hpo.study=s\n")
        assert len(errors.splitlines()) == 1
        assert not list(folder.glob("*/checkpoints"))
    assert not list(folder.glob("*/metrics.json"))
    with searching(given, tmp_path) as process:
        assert process.stdout is not None
        again = [process.stdout.readline() for _ in range(2)]
    assert [line[:8] for line in again] == ["trial 2 ", "trial 3 "]
    assert [line[8:] for line in again] == [line[8:] for line in printed.splitlines(keepends=True)[:2]], "what was lost"


@pytest.mark.slow
def test_ctrl_c_reaches_only_the_search_itself(photos: Path, weights: Path, tmp_path: Path) -> None:
    with searching([*small_all(photos, weights), RATES], tmp_path) as process:
        parent = psutil.Process(process.pid)
        while not (workers := [c for c in parent.children() if "forkserver" in " ".join(c.cmdline())]):
            assert process.poll() is None
            time.sleep(0.02)
        for one in [*workers, parent]:
            one.send_signal(signal.SIGINT)  # as a terminal does
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert len(errors.splitlines()) == 1, errors


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_what_a_proposal_knows_does_not_hang_on_who_is_first(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, sampler: str
) -> None:
    sweep = "trainer.max_epochs=30,1"
    space = to_optuna(parse([sweep]))
    seed = next(s for s in range(100) if points(s, space) == ["30", "1"])
    done = launch(
        *small_all(photos, weights), "-m", "hpo=optuna", sweep, "hpo.study=o", f"hpo.sampler={sampler}", f"seed={seed}",
        "hpo.max_parallel_jobs=2", f"hpo.max_jobs={2 if sampler == 'grid' else 4}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if re.match(r"trial \d", line)]
    told = [line.replace("(", ":").split(":")[0].strip() for line in lines]
    if sampler == "grid":
        assert told == ["trial 0", "trial 1", "trial 1", "trial 0"], "what is done is kept at once"
    else:
        assert told[:6] == ["trial 0", "trial 1", "trial 0", "trial 2", "trial 1", "trial 3"], "trial 2 knows only 0"


def points(seed: int, space: Mapping[str, BaseDistribution]) -> list[str]:
    """What a search proposes first."""
    study = optuna.create_study(sampler=make_sampler("tpe", seed, 0, space))
    return [str(study.ask(dict(space)).params["trainer.max_epochs"]) for _ in range(2)]


@pytest.mark.slow
def test_a_process_that_dies_fails_its_trial_alone(photos: Path, weights: Path, tmp_path: Path) -> None:
    given = [*small_all(photos, weights), RATES, "hpo.study=s", "hpo.sampler=grid", "trainer.max_epochs=20"]
    folder = tmp_path / "multirun/s"
    with searching([*given, "hpo.max_jobs=4"], tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("trial 2 "):
                break  # trial 0 is done
        training(process, folder, 2).kill()
        printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "trial 2 failed: its process ended with SIGKILL, as it does where memory runs out" in printed
    assert [r["state"] for r in rows(folder)] == ["complete", "complete", "failed", "complete", "complete"]


@pytest.mark.slow
@pytest.mark.parametrize("several", [1, 2])
def test_a_trial_that_others_are_ahead_of_is_pruned(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, several: int
) -> None:
    done = launch(
        *small_all(photos, weights), "-m", "hpo=optuna", RATES, "hpo.study=p", "hpo.sampler=grid", "hpo.pruner=median",
        f"hpo.max_parallel_jobs={several}", "trainer.max_epochs=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "multirun/p")
    assert [r["state"] for r in found] == ["complete"] * 6 + ["pruned"]
    assert "trial 6: pruned after 1 epochs, at valid.loss" in done.stdout
    folder = tmp_path / "multirun/p/6"
    assert not (folder / "metrics.json").exists()
    assert not (folder / "checkpoints").exists()
    assert not list(folder.rglob("*.tmp"))
    assert "lr: 1.0e-07" not in (tmp_path / "multirun/p/best.yaml").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("several", [1, 2])
def test_a_trial_that_cannot_become_good_is_pruned_by_diagnosis(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, several: int
) -> None:
    done = launch(
        *small_all(photos, weights), "-m", "hpo=optuna", "optimizer=sgd", "optimizer.lr=0.5,10000,0.3", "hpo.study=d",
        "hpo.sampler=grid", "hpo.pruner=diagnosis", f"hpo.max_parallel_jobs={several}", "trainer.gradient_clip=null",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    states = {r["optimizer.lr"]: r["state"] for r in rows(tmp_path / "multirun/d")}
    assert states == {"0.5": "complete", "10000": "pruned", "0.3": "complete"}
    assert "pruned: debugger: LearningRateTooHigh" in done.stdout
    assert "10000" not in (tmp_path / "multirun/d/best.yaml").read_text()


@pytest.mark.slow
def test_another_launcher_is_given_batches(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = tmp_path / "plugins/hydra_plugins"
    plugins.mkdir(parents=True)
    (plugins / "batch.py").write_text(LAUNCHER)
    monkeypatch.setenv("PYTHONPATH", str(plugins.parent), prepend=os.pathsep)
    given = [
        *small_all(photos, weights), "-m", "hpo=optuna", "hydra/launcher=batch", "hpo.study=b",
        "hpo.max_parallel_jobs=3", "hpo.max_jobs=5", "optimizer.lr=interval(0.01,0.1)",
    ]  # fmt: skip
    done = launch(*given)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "batches.txt").read_text().split("\n") == ["0 3", "3 2", ""]
    found = rows(tmp_path / "multirun/b")
    assert [r["trial"] for r in found] == ["0", "1", "2", "3", "4"]
    for r in found:
        metrics = json.loads((tmp_path / "multirun/b" / r["trial"] / "metrics.json").read_text())
        assert float(r["objective"]) == metrics["valid"]["loss"]
        assert float(r["seconds"]) == pytest.approx(sum(metrics["seconds"].values()), abs=0.01)
    pruned = launch(*given, "hpo.pruner=median")
    assert pruned.returncode == 2
    assert "needs trials on this machine, hydra/launcher=batch runs them elsewhere" in pruned.stderr
    assert len(pruned.stderr.splitlines()) == 1
