"""`python launch.py -m hpo=optuna`: the search, what it leaves, and going on."""

import csv
import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest
from helpers import ROOT, Command, small_all
from omegaconf import OmegaConf

from sagehound.cli.previous_runs import with_best
from sagehound.errors import ConfigError, SagehoundError
from sagehound_launchers.config import Hpo, Launch
from sagehound_launchers.search.loop import tune
from sagehound_launchers.search.results import write
from sagehound_launchers.search.runners import Job, Result
from sagehound_launchers.search.space import parse
from sagehound_launchers.search.trial import Trial, best_of

SEARCH = ["-m", "hpo=optuna", "hpo.study=mine", "optimizer.lr=tag(log,interval(1e-3,1e-1))", "data.batch_size=5,8"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hpo=optuna", "hpo/space=adamx"], "no such option (did you mean adam?); choose from adam, adamw, "),
        (["hpo=optuna", "hpo/space=adamw", "optimizer=sgd"], "optimizer=sgd has no eps"),
        (["hpo=optuna", "hpo.objective=valid.lss"], "no such number in metrics.json (did you mean valid.loss?)"),
        (["hpo=optuna", "hpo.objective=test.top1"], "a model that was chosen by its test score has no fair test score"),
        (["hpo=optuna", "hpo.objective=valid.top1"], "is better if it is higher: give hpo.direction=maximize"),
        (["hpo=optuna", "hpo.direction=maximize"], "is better if it is lower: give hpo.direction=minimize"),
        (
            ["hpo=optuna", "hpo.pruner=median", "hpo.objective=valid.ece"],
            "choose hpo.objective=valid.loss or valid.top1 or valid.macro_f1",
        ),
        (
            ["hpo=optuna", "hpo.pruner=medin"],
            "hpo.pruner=medin: choose from none, median, hyperband, diagnosis (did you mean",
        ),
        (["hpo=optuna", "head.dropot=0.1,0.2"], "head.dropot: no such key (did you mean head.dropout?)"),
        (["hpo=optuna", "optimizer.lr=-1,2"], "optimizer.lr=-1.0: must be above 0"),
        (["hpo=optuna", "optimizer.lr=interval(2,1)"], "give two finite numbers, the smaller first"),
        (["hpo=optuna", "hpo.sampler=grid", "optimizer.lr=interval(0.1,1)"], "hpo.sampler=grid takes values"),
        (
            ["hpo=optuna", "hpo.sampler=magic", "optimizer.lr=1,2"],
            "=magic: choose from tpe, qmc, random, grid",
        ),
        (["-m", "hpo=optuna", "optimizer.lr=1,2", "transform=local"], "leave no model.tar.gz, which transform needs"),
        (
            ["hpo=optuna", "trainer=sagemaker", "aws.role=NAME", "dry_run=true"],
            "drop hpo=optuna to see the request of one trial",
        ),
        (["hpo=optna"], "hpo=optna: no such option (did you mean optuna?)"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    launch: Command, photos: Path, weights: Path, arguments: list[str], message: str
) -> None:
    done = launch(*small_all(photos, weights), *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "epoch" not in done.stdout


@pytest.mark.slow
def test_a_search_and_training_with_its_best(
    launch: Command, command: Command, photos: Path, weights: Path, tmp_path: Path
) -> None:
    done = launch(*small_all(photos, weights), *SEARCH, "hpo.max_jobs=3", "hpo.sampler=random")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "multirun/mine"
    found = rows(folder)
    assert [(r["trial"], r["state"]) for r in found] == [(str(i), "complete") for i in range(3)]
    for r in found:
        trial = folder / r["trial"]
        assert float(r["objective"]) == json.loads((trial / "metrics.json").read_text())["valid"]["loss"]
        cfg = OmegaConf.load(trial / "config.yaml")
        assert (cfg.optimizer.lr, str(cfg.data.batch_size)) == (float(r["optimizer.lr"]), r["data.batch_size"])
        assert not (trial / "checkpoints").exists(), "a trial leaves scores"
    assert len({r["optimizer.lr"] for r in found}) == 3
    best = min(found, key=lambda r: float(r["objective"]))
    winning = OmegaConf.load(folder / "best.yaml")
    assert winning["optimizer.lr"] == best["optimizer.lr"]
    assert (folder / "plots/hyperparameters.png").stat().st_size > 5_000
    again = launch(*small_all(photos, weights), *SEARCH, "hpo.max_jobs=4", "hpo.sampler=random")
    assert again.returncode == 0, again.stderr
    assert [r["trial"] for r in rows(folder)] == ["0", "1", "2", "3"], "the numbers go on"
    assert len({r["optimizer.lr"] for r in rows(folder)}) == 4, "and propose something else"
    other = launch(*small_all(photos, weights), *SEARCH, "hpo.max_jobs=4", "head.dropout=0.1,0.2")
    assert other.returncode == 2
    assert "the study searched with another space before" in other.stderr
    trained = command("best=multirun/mine", "trainer.max_epochs=1", "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    best = min(rows(folder), key=lambda r: float(r["objective"]))
    cfg = OmegaConf.load(tmp_path / "run/config.yaml")
    assert cfg.optimizer.lr == float(best["optimizer.lr"])
    assert cfg.trainer.max_epochs == 1, "what is given beside it wins"


@pytest.mark.slow
def test_a_killed_search_goes_on(launch: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    given = [
        *small_all(photos, weights),
        *SEARCH,
        "hpo.max_jobs=3",
        "hpo.objective=valid.top1",
        "hpo.direction=maximize",
    ]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *given], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("trial 1 "):
            break  # it is about to begin
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = launch(*given)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "multirun/mine")
    assert [r["state"] for r in found] == ["complete", "stopped", "complete", "complete"]
    assert found[1]["optimizer.lr"] == found[2]["optimizer.lr"], "the point that was lost is tried again"


@pytest.mark.slow
def test_a_search_without_a_name_says_how_it_is_resumed(photos: Path, weights: Path, tmp_path: Path) -> None:
    given = [*small_all(photos, weights), "-m", "hpo=optuna", "hpo.max_jobs=3", "optimizer.lr=interval(0.01,0.1)"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *given, "trainer.max_epochs=2"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("trial 1 "):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert len(errors.splitlines()) == 1
    (folder,) = tmp_path.glob("multirun/*/*")
    assert [r["state"] for r in rows(folder)] == ["complete"]
    assert (folder / "best.yaml").exists()
    said = errors.rpartition("resume with: ")[2]
    assert said.endswith(f" hpo.study={folder.relative_to(tmp_path / 'multirun')}\n")
    again = shlex.split(said)
    done = subprocess.run(
        [sys.executable, str(ROOT / again[1]), *again[2:]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [r["state"] for r in rows(folder)].count("complete") == 3


@pytest.mark.slow
def test_a_grid_is_searched_once(launch: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    given = [
        "hpo=optuna",
        "hpo.study=g",
        "hpo.sampler=grid",
        "data.batch_size=5,8",
        "+hpo.space.optimizer.lr='0.01,0.02'",
    ]
    done = launch(*small_all(photos, weights), *given)
    assert done.returncode == 0, done.stderr
    tried = {(r["data.batch_size"], r["optimizer.lr"]) for r in rows(tmp_path / "multirun/g")}
    assert tried == {(b, lr) for b in ("5", "8") for lr in ("0.01", "0.02")}
    assert len(rows(tmp_path / "multirun/g")) == 4


class Parabola:
    """Runs trials that train nothing: the objective is a parabola of the point."""

    room = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def run(self, jobs: list[Job]) -> list[Result]:
        given = [dict(o.split("=", 1) for o in job.overrides) for job in jobs]
        losses = [(float(g["optimizer.lr"]) - 0.02) ** 2 for g in given]
        return [Result(j.number, {"valid": {"loss": v}}, 1.0) for j, v in zip(jobs, losses, strict=True)]


def search(folder: Path, *arguments: str, runner: Parabola | None = None, **hpo: object) -> list[Trial]:
    asked = {"max_jobs": 20, "sampler": "random", "pruner": "none", "objective": "valid.loss", "direction": "minimize"}
    trained = Launch()
    trained.trainer.max_epochs = 1
    return tune(
        arguments, Hpo("optuna", **{**asked, **hpo}), 0, folder, lambda _: trained, lambda *_: runner or Parabola()
    )


@pytest.mark.slow
def test_a_grid_goes_on_wherever_it_was_killed(tmp_path: Path) -> None:
    sweeps = ["optimizer.lr=0.01,0.02,0.03", "data.batch_size=5,8"]
    whole = {(lr, b) for lr in ("0.01", "0.02", "0.03") for b in ("5", "8")}
    search(tmp_path / "whole", *sweeps, sampler="grid")
    lines = (tmp_path / "whole/study.journal").read_bytes().splitlines(keepends=True)
    for cut in range(0, len(lines), 3):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "study.journal").write_bytes(b"".join(lines[:cut]) + lines[cut][:5])
        (folder / "study.journal.lock").touch()
        found = search(folder, *sweeps, sampler="grid")
        tried = [(t.point["optimizer.lr"], t.point["data.batch_size"]) for t in found if t.state == "complete"]
        assert set(tried) == whole, cut
        assert {t.state for t in found} <= {"complete", "stopped"}
        assert len(tried) <= len(whole) + 1
        assert search(folder, *sweeps, sampler="grid") == found


class Failing(Parabola):
    """Every trial after the second fails."""

    def run(self, jobs: list[Job]) -> list[Result]:
        if jobs[0].number < 2:
            return super().run(jobs)
        return [Result(job.number, SagehoundError("no luck"), 1.0) for job in jobs]


def test_a_search_that_fails_leaves_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["launch.py", "-m", "hpo=optuna", "optimizer.lr=interval(0.01,0.1)"])
    with pytest.raises(
        SagehoundError, match=f"no luck; resume with: python launch.py -m .* hydra.sweep.dir={tmp_path}"
    ):
        search(tmp_path, "optimizer.lr=interval(0.01,0.1)", runner=Failing())
    assert [r["state"] for r in rows(tmp_path)] == ["complete"] * 2 + ["failed"] * 3
    assert (tmp_path / "best.yaml").exists()


def test_a_search_goes_on_in_its_direction(tmp_path: Path) -> None:
    search(tmp_path, "optimizer.lr=0.01,0.02", max_jobs=2)
    with pytest.raises(ConfigError, match="the study searched with another direction before"):
        search(tmp_path, "optimizer.lr=0.01,0.02", max_jobs=3, direction="maximize")


def test_best_needs_a_search(command: Command, tmp_path: Path) -> None:
    for content in (None, "- a\n", "{"):
        if content is not None:
            (tmp_path / "best.yaml").write_text(content)
        done = command(f"best={tmp_path}", "data=folder", "data.root=x")
        assert done.returncode == 2
        assert "give the folder of a finished search" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_the_best_and_the_edge_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = parse(["lr=tag(log,interval(1e-4,1e-1))", "b=32,64"])
    points = [(1e-2, "32", 0.5), (9e-2, "64", 0.2), (3e-3, "64", 0.2)]
    trials = [Trial(i, "complete", objective, 1.0, {"lr": lr, "b": b}) for i, (lr, b, objective) in enumerate(points)]
    trials.append(Trial(3, "failed", None, None, {"lr": 1e-3, "b": "32"}))
    assert best_of(trials, maximize=False) == trials[1], "the earlier of equals"
    assert best_of(trials, maximize=True) == trials[0]
    assert best_of(trials[3:], maximize=True) is None
    write(tmp_path, trials, space, maximize=False, objective="valid.loss")
    assert "the best lr, 0.09, lies at the edge of its range" in capsys.readouterr().out
    assert rows(tmp_path)[3] == {
        "trial": "3", "state": "failed", "objective": "", "seconds": "", "lr": "0.001", "b": "32",
    }  # fmt: skip
    assert OmegaConf.load(tmp_path / "best.yaml") == {"lr": "0.09", "b": "64"}
    assert [p.name for p in (tmp_path / "plots").iterdir()] == ["hyperparameters.png"]


def test_the_best_is_trained_with_all_that_its_search_was_given(tmp_path: Path) -> None:
    space = parse(["lr=interval(0.1,1)", "experiment=dogs_resnet34", "trainer.max_epochs=3"])
    write(tmp_path, [Trial(0, "complete", 1.0, 1.0, {"lr": 0.5})], space, maximize=False, objective="valid.loss")
    best = OmegaConf.load(tmp_path / "best.yaml")
    assert best == {"experiment": "dogs_resnet34", "trainer.max_epochs": "3", "lr": "0.5"}


def test_the_best_holds_no_setting_of_the_searchs_own_command(tmp_path: Path) -> None:
    own = ["overwrite=True", "overwrite=true", "results=all", "audit_only=false", "best=x", "resume=null"]
    space = parse(["optimizer.lr=interval(0.1,1)", "hydra.verbose=false", "trainer=sagemaker", *own, "seed=3"])
    write(tmp_path, [Trial(0, "complete", 1.0, 1.0, {"optimizer.lr": 0.5})], space, maximize=False, objective="loss")
    assert OmegaConf.load(tmp_path / "best.yaml") == {"seed": "3", "optimizer.lr": "0.5"}


def test_a_best_that_a_user_wrote_sets_only_what_is_trained(tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text(
        "overwrite: true\nresults: scores\n+audit_only: true\nhydra.run.dir: x\nhydra/launcher: y\n"
        "seed: 1\nflip: true\ntrainer.patience: null\nhead.hidden: [8, 4]\ndata.root: Dogs (2024)\n"
    )
    best = ["seed=1", "flip=true", "trainer.patience=null", "head.hidden=[8, 4]", "data.root='Dogs (2024)'"]
    assert with_best([f"best={tmp_path}"]) == [*best, f"best={tmp_path}"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("--cfg: job\n", "--cfg: job: --cfg is not the key of a setting; remove that line"),
        ("-m: ''\n", "-m is not the key of a setting"),
        ("finetune: null\n", "finetune takes the name of an option; write finetune: NAME"),
        ("optimizer:\n  lr: 1\n", "optimizer takes the name of an option; write optimizer: NAME, or optimizer.KEY"),
    ],
)
def test_a_best_with_something_else_than_overrides_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "best.yaml").write_text(content)
    with pytest.raises(ConfigError, match=re.escape(message)):
        with_best([f"best={tmp_path}"])
