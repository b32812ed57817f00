"""`-m key=a,b`: what a grid checks, what it leaves, and what a failed point or a signal does to the others."""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, Command, small_all
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from sagehound.errors import ConfigError, InputError, SagehoundError, Stopped
from sagehound_launchers.search import grid, isolation, results
from sagehound_launchers.search.space import parse
from sagehound_launchers.search.trial import Trial

SWEEP = ["data=folder", "optimizer.lr=0.01,0.02,0.03", "data.batch_size=tag(scientific,choice(5,8))"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def of(*overrides: str) -> grid.Grid:
    return grid.parse(OverridesParser.create().parse_overrides(list(overrides)))


def launcher(outcome: Callable[[int], Any]) -> Callable[[Sequence[Sequence[str]], int], list[JobReturn]]:
    """A launcher whose jobs train nothing: each returns, fails with or raises what ``outcome`` says."""

    def launch(jobs: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        done = []
        for number in range(first, first + len(jobs)):
            result = outcome(number)
            if isinstance(result, KeyboardInterrupt):
                raise result
            status = JobStatus.FAILED if isinstance(result, Exception) else JobStatus.COMPLETED
            done.append(JobReturn(status=status, _return_value=result))
        return done

    return launch


def scored(number: int) -> dict[str, Any]:
    return {"valid": {"loss": 1.0 - number / 10, "top1": number / 10}, "seconds": {"train": 1.0}}


def test_every_point_of_a_grid_is_tried() -> None:
    found = of(*SWEEP, "optimizer.lr=0.1,0.2")
    assert found.space.roles == {"data.batch_size": "scientific"}
    assert found.space.fixed == ["data=folder"]
    assert len(found.points) == 4
    assert {"optimizer.lr": "0.2", "data.batch_size": "8"} in found.points
    with pytest.raises(ConfigError, match=r"a grid takes values, not intervals: write optimizer.lr=a,b,c"):
        of("optimizer.lr=interval(0.1,1)")


@pytest.mark.parametrize("most", [1, 6])
def test_a_failed_point_does_not_stop_the_others(tmp_path: Path, most: int, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {1: InputError("no photos"), 3: RuntimeError("out of memory\nand more")}
    with pytest.raises(SagehoundError, match="2 of 6 trials failed; the first, trial 1: no photos") as failed:
        grid.run(of(*SWEEP), tmp_path, launcher(lambda n: wrong.get(n, scored(n))), most)
    assert failed.value.exit_code == InputError.exit_code
    assert [r["state"] for r in rows(tmp_path)] == ["complete", "failed", "complete", "failed", "complete", "complete"]
    assert OmegaConf.load(tmp_path / "best.yaml") == {
        "data": "folder", "optimizer.lr": "0.03", "data.batch_size": "8",
    }  # fmt: skip
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"hyperparameters.png", "isolation.png"}
    said = capsys.readouterr().out
    assert "warning: trial 1 failed: no photos\n" in said
    assert "warning: trial 3 failed: RuntimeError: out of memory\n" in said
    table = [line.split() for line in said.splitlines()]
    assert ["4", "0.03", "5", "complete", "0.6000", "40.0%"] in table
    assert ["3", "0.02", "8", "failed"] in table


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Stopped("stopped by SIGTERM", signal.SIGTERM)])
def test_finished_trials_are_written_after_a_signal(tmp_path: Path, stop: BaseException) -> None:
    with pytest.raises(
        Stopped, match=r"2 of 6 trials are done; .*trials.csv lists them; to train all of them again: A$"
    ) as stopped:
        grid.run(of(*SWEEP), tmp_path, launcher(lambda n: stop if n == 2 else scored(n)), 1, again="A")
    assert stopped.value.exit_code == (143 if isinstance(stop, Stopped) else 130)
    assert [r["state"] for r in rows(tmp_path)] == ["complete", "complete", "stopped"]
    assert (tmp_path / "best.yaml").exists()


def test_jobs_elsewhere_that_were_done_are_read_from_their_folders(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    (tmp_path / "3/metrics.json").write_text(json.dumps(scored(3)))
    with pytest.raises(Stopped, match="1 of 6 trials are done"):
        grid.run(of(*SWEEP), tmp_path, launcher(lambda _: KeyboardInterrupt()), 6)
    assert [(r["trial"], r["state"]) for r in rows(tmp_path)] == [("3", "complete")]


def test_an_objective_of_its_own(tmp_path: Path) -> None:
    grid.run(of("optimizer.lr=1,2"), tmp_path, launcher(scored), 1, objective="valid.top1", maximize=True)
    assert [r["objective"] for r in rows(tmp_path)] == ["0.0", "0.1"]
    assert OmegaConf.load(tmp_path / "best.yaml")["optimizer.lr"] == "2"


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_folder_of_another_sweep_is_refused_or_overwritten(tmp_path: Path) -> None:
    mine = ["2024/config.yaml", "2024/history.csv", "2024/output.txt", "2024/request.json"]
    fill(tmp_path, "0/config.yaml", "0/overrides.yaml", "0/.lock", "0/notes.txt", "best.yaml", "notes.txt", *mine)
    with pytest.raises(ConfigError, match=f"{tmp_path} holds another sweep: replace it with overwrite=true"):
        grid.prepare(tmp_path, 2, overwrite=False)
    assert (tmp_path / "best.yaml").exists()
    grid.prepare(tmp_path, 2, overwrite=True)
    assert names(tmp_path) == ["0/.lock", "0/notes.txt", *mine, "notes.txt"]


@pytest.mark.parametrize("name", ["best.yaml", "trials.csv", "multirun.yaml", "1/model.tar.gz"])
def test_a_users_file_is_not_replaced_by_a_sweep(tmp_path: Path, name: str) -> None:
    fill(tmp_path, name)
    with pytest.raises(ConfigError, match=f"holds {Path(name).name}, which would be replaced"):
        grid.prepare(tmp_path, 2, overwrite=False)
    assert names(tmp_path) == [name]


def test_a_users_folder_in_the_place_of_a_trial_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, "1/history.csv", "elsewhere/config.yaml", "elsewhere/overrides.yaml", "elsewhere/metrics.json")
    before = names(tmp_path)
    with pytest.raises(ConfigError, match=r"1 holds history.csv, which would be replaced"):
        grid.prepare(tmp_path, 2, overwrite=True)
    (tmp_path / "0").symlink_to("elsewhere")
    with pytest.raises(ConfigError, match="0 is a link"):
        grid.prepare(tmp_path, 1, overwrite=True)
    assert names(tmp_path / "elsewhere") == ["config.yaml", "metrics.json", "overrides.yaml"]
    assert before == [n for n in names(tmp_path) if not n.startswith("0/")]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (["optimizer.lr=0.1,0.2,-1"], "trial 2 of 3 (optimizer.lr=-1): optimizer.lr=-1.0: must be above 0"),
        (["optimizer=adam,adamx"], "trial 1 of 2 (optimizer=adamx): optimizer=adamx: no such option"),
        (["optimizer.lr=interval(0.1,1)"], "a grid takes values, not intervals"),
    ],
)
def test_a_wrong_last_point_is_refused_at_once(
    command: Command, photos: Path, weights: Path, tmp_path: Path, sweep: list[str], message: str
) -> None:
    done = command("-m", *small_all(photos, weights), *sweep)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not (tmp_path / "multirun").exists()


def test_trials_that_were_ended_early_are_drawn_with_a_marker_of_their_own() -> None:
    space = parse(["lr=interval(0.1,1)", "b=tag(scientific,choice(32,64))"])
    found = [
        Trial(0, "complete", 1.0, 1.0, {"lr": 0.2, "b": "32"}),
        Trial(1, "pruned", 2.0, 1.0, {"lr": 0.3, "b": "64"}),
        Trial(2, "failed", None, None, {"lr": 0.4, "b": "64"}),
    ]
    figure = results._figure(found, found[0], space, "valid.loss")
    values = {"b": isolation.isolate(found, "b", space.ranges["b"], maximize=False)}
    assert [(v.trials, v.best) for v in values["b"]] == [(1, found[0]), (0, None)], "a pruned trial is no best"
    for drawn, name in ((figure, "complete"), (isolation._figure(values, "valid.loss"), "best complete")):
        shown = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]
        assert {name, "pruned"} <= set(shown)


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_with_its_results(photos: Path, weights: Path, tmp_path: Path) -> None:
    given = [*small_all(photos, weights), "-m", "trainer.max_epochs=1,100000", "optimizer.lr=0.01,0.02"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *given],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/100000"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert len(errors.splitlines()) == 1
    (folder,) = tmp_path.glob("multirun/*/*")
    assert f"2 of 4 trials are done; {folder.relative_to(tmp_path)}/trials.csv lists them" in errors
    assert errors.endswith(f" hydra.sweep.dir={folder.relative_to(tmp_path)} overwrite=true\n")
    assert [r["state"] for r in rows(folder)] == ["complete", "complete", "stopped"]
    assert OmegaConf.load(folder / "best.yaml")["trainer.max_epochs"] == "1"
