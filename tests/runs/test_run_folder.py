"""A folder contains the files of one run: a refused command changes nothing, and two runs never share a folder."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, Command, Compose, make_photos, small_all

from sagehound.errors import ConfigError, SagehoundError
from sagehound.runs.run_folder import claim, remove_run
from sagehound.training.train import train


def digest(folder: Path) -> dict[str, str]:
    """The files of a folder with their hashes."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture
def mine(run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run of four epochs with its model.tar.gz; without .lock, as from a job."""
    folder = Path(shutil.copytree(run, tmp_path / "mine"))
    (folder / ".lock").unlink()
    return folder


@pytest.mark.parametrize(
    "changed",
    [
        ["optimizer.lr=1"],
        ["trainer.max_epochs=1"],
        ["data.root=nowhere"],
        ["data.root=other"],
        ["results=scores", "optimizer.lr=1"],
        ["overwrite=true"],
    ],
    ids=" ".join,
)
def test_a_refused_resume_changes_no_file(
    config: Compose, mine: Path, tmp_path: Path, changed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = make_photos(tmp_path / "other", train=8, valid=3, test=4)
    for split in other.iterdir():
        (split / "001.Amber").rename(split / "001.Zebra")
    given = [
        "finetune=full",
        "finetune.start=random",
        "optimizer.lr=0.01",
        "trainer.max_epochs=4",
        f"resume={mine}/checkpoints/last.ckpt",
    ]
    before = digest(mine)
    with pytest.raises(SagehoundError) as refused:
        train(config(*given, *changed), mine, overrides=["new=1"])
    assert refused.value.exit_code in (2, 3)
    assert digest(mine) == before


@pytest.mark.parametrize(
    ("script", "changed", "code"),
    [
        ("train.py", ["optimizer.lr=1"], 2),
        ("train.py", ["trainer=sagemaker"], 2),
        ("launch.py", ["trainer=sagemaker", "aws=emulator"], 2),
        ("train.py", ["optimizer.lrr=1"], 2),
        ("train.py", ["audit_only=true"], 2),
    ],
)
def test_a_refused_command_changes_no_file(
    command: Command, launch: Command, mine: Path, script: str, changed: list[str], code: int
) -> None:
    before = digest(mine)
    done = (command if script == "train.py" else launch)(f"resume={mine}", *changed)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert digest(mine) == before


@pytest.mark.slow
def test_a_resume_without_artifact_removes_the_old_model(
    config: Compose, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["finetune=full", "finetune.start=random", "optimizer.lr=0.01", "trainer.max_epochs=5", "schedule=cosine"]
    (mine / "bias.json").write_text("{}")  # of the predictions of older weights
    train(config(*given, "results=all", f"resume={mine}/checkpoints/last.ckpt"), mine)
    assert "removed model.tar.gz, bias.json" in capsys.readouterr().out
    assert not (mine / "model.tar.gz").exists()
    assert not (mine / "bias.json").exists()
    train(config(*given, "results=scores", f"resume={mine}/checkpoints/last.ckpt"), mine)
    removed = "removed predictions.csv, per_class.csv, confusions.csv, history.csv, confusion.png, "
    assert removed in capsys.readouterr().out
    left = {p.name for p in mine.rglob("*") if p.is_file() and not p.name.startswith("events")}
    written = {"audit.json", "splits.csv", "config.yaml", "overrides.yaml", "metrics.json", "hparams.yaml"}
    assert left == {".lock", *written}


def test_a_resume_without_plots_removes_the_old_ones(
    config: Compose, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "finetune=full",
        "finetune.start=random",
        "optimizer.lr=0.01",
        "trainer.max_epochs=5",
        "schedule=cosine",
        "results=tables",
    ]
    train(config(*given, f"resume={mine}/checkpoints/last.ckpt"), mine)
    assert "curves.png, reliability.png, made with older weights: results=tables writes no new files" in (
        capsys.readouterr().out
    )
    assert not list(mine.glob("plots/*"))
    assert (mine / "predictions.csv").exists()


@pytest.mark.slow
def test_another_run_is_refused_or_overwritten(config: Compose, mine: Path, tmp_path: Path) -> None:
    for name in ("notes.txt", "plots/mine.png", "tensorboard/notes.txt"):
        (mine / name).write_text("a user's")
    before = digest(mine)
    with pytest.raises(
        ConfigError, match=f"{mine} holds another run: continue it with resume={mine}, .*overwrite=true"
    ):
        train(config(), mine)
    assert digest(mine) == before
    with pytest.raises(SagehoundError, match=r"nowhere is not a folder"):
        train(config("overwrite=true", "data.root=nowhere"), mine)
    assert digest(mine) == before, "a refused run removes nothing"
    train(config("overwrite=true", "trainer.max_epochs=1"), mine, overrides=["overwrite=true"])
    fresh = train(config("trainer.max_epochs=1"), tmp_path / "fresh", overrides=[])
    assert json.loads((mine / "metrics.json").read_text())["test"] == fresh.metrics["test"]
    names = [{n for n in digest(f) if "events" not in n} for f in (mine, fresh.folder)]
    assert names[0] == names[1] | {"notes.txt", "plots/mine.png", "tensorboard/notes.txt"}
    assert len(list((mine / "tensorboard").glob("events*"))) == len(
        list((fresh.folder / "tensorboard").glob("events*"))
    )


def test_remove_run_removes_all_files_of_a_run(mine: Path) -> None:
    remove_run(mine)
    assert not list(mine.iterdir())


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a user's")


def test_remove_run_keeps_other_files(tmp_path: Path) -> None:
    ours = [
        *(
            "debugger/tensors/events/000000000001/000000000001_worker_0.tfevents",
            "debugger/tensors/training_job_end.ts",
        ),
        *("debugger/tensors-2/index/000000000/000000000001_worker_0.json", "debugger/tensors/claim.smd"),
        *("debugger/tensors/collections/000000000/worker_0_collections.json", ".metrics.json.123.tmp"),
        *("checkpoints/.last.ckpt.7.tmp", "plots/.curves.png.7.tmp", ".model.tar.gz.9.tmp"),
    ]
    others = [
        "debugger/tensors/notes.txt",
        "debugger/tensors/a/b.npy",
        ".mine.tmp",
        "plots/.mine.7.tmp",
        ".metrics.json.tmp",
    ]
    fill(tmp_path, *ours, *others)
    remove_run(tmp_path)
    assert set(digest(tmp_path)) == set(others)


def test_nothing_behind_a_link_is_removed(config: Compose, tmp_path: Path) -> None:
    fill(tmp_path, "other/checkpoints/last.ckpt", "run/config.yaml")
    (tmp_path / "run/checkpoints").symlink_to("../other/checkpoints")
    before = digest(tmp_path)
    with pytest.raises(ConfigError, match="run/checkpoints is a link"):
        train(config("overwrite=true"), tmp_path / "run")
    assert digest(tmp_path) == before


@pytest.mark.parametrize("name", ["model.tar.gz", "predictions.csv", "history.csv", "plots/curves.png"])
def test_a_users_file_is_not_replaced(config: Compose, tmp_path: Path, name: str) -> None:
    fill(tmp_path / "run", name, "train.log", "notes.txt")
    before = digest(tmp_path)
    with pytest.raises(ConfigError, match=f"run holds {name}, which would be replaced: give another hydra.run.dir, or"):
        train(config(), tmp_path / "run")
    assert digest(tmp_path) == before


def test_a_folder_is_claimed_only_once(tmp_path: Path) -> None:
    assert [claim(tmp_path / "a/run").name for _ in range(3)] == ["run", "run-2", "run-3"]


PINNED = """# @package _global_
hydra:
  run:
    dir: outputs/${now:%Y}/${backbone.name}
  sweep:
    dir: multirun/${now:%Y}/${backbone.name}
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["outputs", "multirun"])
def test_two_commands_of_one_second_get_two_folders(photos: Path, weights: Path, tmp_path: Path, kind: str) -> None:
    conf = tmp_path / "conf/experiment"
    conf.mkdir(parents=True)
    (conf / "pinned.yaml").write_text(PINNED)
    given = [
        *small_all(photos, weights),
        "trainer.max_epochs=1",
        "experiment=pinned",
        *(["-m", "seed=1,2"] * (kind == "multirun")),
    ]
    command = [sys.executable, str(ROOT / "train.py"), "--config-dir", str(conf.parent), *given]
    runs = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [run.communicate(timeout=200)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], ended
    names = [p.relative_to(tmp_path).parts[2] for p in sorted(tmp_path.glob(f"{kind}/**/metrics.json"))]
    assert names == (
        ["test_resnet"] * 2 + ["test_resnet-2"] * 2 if kind == "multirun" else ["test_resnet", "test_resnet-2"]
    )
