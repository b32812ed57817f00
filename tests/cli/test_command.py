import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, Command

from sagehound.cli.command import run_training
from sagehound.cli.previous_runs import resumed
from sagehound.config import Data, Train
from sagehound.errors import ConfigError, InputError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer.lrr=1"], "optimizer.lrr: no such key (did you mean optimizer.lr?); choose from optimizer.name, "),
        (["backbon=resnet18"], "backbon: no such key (did you mean backbone?); choose from backbone, head, "),
        (["+extra=1"], "extra: no such key"),
        (["~artifact"], "artifact cannot be removed: give artifact=..."),
        (["optimizer.lr=fast"], "optimizer.lr=fast: must be a number"),
        (["seed=1.5"], "seed=1.5: must be a whole number"),
        (["trainer.compile=perhaps"], "trainer.compile=perhaps: must be true or false"),
        (["head.hidden=3"], "head.hidden=3: must be a list, such as [512,256]"),
        (["optimizer.lr=null"], "optimizer.lr=null: must have a value, not null"),
        (["optimizer=null"], "optimizer=null: a config group takes the name of an option, not null"),
        (["logger=3"], "logger=3: a config group takes the name of an option, not 3"),
        (["logger=[csv,null]"], "logger=[csv,null]: a list of a config group holds names of options, not null"),
        (["-m", "optimizer=adamw,null"], "optimizer=adamw,null: a config group takes the name of an option, not null"),
        (["head.hidden=[null]"], "head.hidden=[null]: must have a value, not null"),
        (["data.columns=x"], "data.columns=x: takes keys: write KEY.NAME=VALUE"),
        (["data.source=x"], "data.source=x: takes keys: write KEY.NAME=VALUE"),
        (["optimizer=adm"], "optimizer=adm: no such option (did you mean adam?); choose from adam, adamw, sgd"),
        (["backbone=vgg"], "or any name of timm.list_models() as backbone.name=..."),
        (["optimizer.lr=0.1,0.2"], "optimizer.lr=0.1,0.2: several values are a sweep: add -m"),
        (["data.root=/tmp/a=b"], "quote the value twice, for Hydra and for the shell"),
        (
            ["data.root=/tmp/Füchse & Hunde (2024)"],
            "for Hydra and for the shell: \"data.root='/tmp/Füchse & Hunde (2024)'\"",
        ),
        ([r"data.group=train_000(\d)"], r"""for the shell: 'data.group='"'"'train_000(\d)'"'"''"""),
        (["hydra.run.dir=~/a"], "hydra.run.dir=~/a: quote the value twice, for Hydra and for the shell: "),
        (["optimizer.lr"], "optimizer.lr: not an override: write key=value"),
        (["data=folder"], "data.root is missing: give data.root=PATH of your photos"),
        (["optimizer=sgd", "optimizer.betas=[0.9,0.9]"], "optimizer=sgd has no eps and no betas"),
        (["resume=last"], "resume=last: no run in outputs left checkpoints/last.ckpt"),
        (["resume=nowhere"], "resume=nowhere: nowhere does not exist"),
        (
            ["best=last"],
            "best=last: no such folder here: give that of a finished search, such as multirun/last, or the name",
        ),
        (["-m", "resume=last"], "resume= continues one run: drop -m"),
    ],
)
def test_a_wrong_command_ends_in_one_line_and_code_2(
    command: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("outputs/*/*")), "a wrong command leaves no folder for a run"


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["optimizer.lrr=1"], ["optimizer.lr=-1"]])
def test_help_and_errors_import_no_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['train.py', *{arguments!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'torchvision', 'timm', 'lightning', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print('light')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("light\n"), done.stderr


def test_help_names_the_groups_and_examples(command: Command) -> None:
    done = command("--help")
    assert done.returncode == 0
    for expected in ("backbone: efficientnet_lite0", "finetune: full, gradual, head", "python train.py data=demo"):
        assert expected in done.stdout


@pytest.mark.parametrize("script", ["train.py", "launch.py"])
def test_ctrl_c_during_imports_prints_one_line(script: str, tmp_path: Path) -> None:
    code = (
        "import builtins, runpy, signal, sys\n"
        "real = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        "    if name == 'hydra':\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
        f"runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "sagehound: stopped by Ctrl-C\n")


def test_a_refused_run_leaves_no_folder(command: Command, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    done = command("data=folder", "data.root=photos", "backbone.pretrained=false", "finetune=full", "audit_only=true")
    assert done.returncode == 3, done.stderr
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["photos"]


@pytest.mark.parametrize(
    "place",
    [["hydra.run.dir=photos/run"], ["hydra.run.dir=photos"], ["-m", "hydra.sweep.dir=photos/s"]],
)
def test_results_inside_the_photo_folder_are_refused(command: Command, tmp_path: Path, place: list[str]) -> None:
    (tmp_path / "photos").mkdir()
    done = command("data=folder", "data.root=photos", "seed=1,2" if "-m" in place else "seed=1", *place)
    assert done.returncode == 2, done.stderr
    assert "is inside the photos' folder data.root=photos: give a hydra.run.dir" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.rglob("*")] == ["photos"]


def test_resume_uses_the_runs_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "outputs/2026-01-01/it's a run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/last.ckpt").touch()
    (run / "overrides.yaml").write_text("- data=demo\n- audit_only=true\n- optimizer.lr=0.1\n- resume=old\n")
    given = resumed(["resume=last", "optimizer.lr=0.2"])
    assert given[:2] == ["data=demo", "optimizer.lr=0.2"]
    assert given[2].startswith("resume='")
    assert given[2].endswith("last.ckpt'")
    assert given[3].startswith("hydra.run.dir='")
    assert resumed([f"resume={run}"])[:2] == ["data=demo", "optimizer.lr=0.1"]


def test_last_is_also_a_run_in_a_folder_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `hydra.run.dir=outputs/first` makes it."""
    monkeypatch.chdir(tmp_path)
    for name, time in (("2026-01-01/older", 1), ("first", 2)):
        checkpoint = tmp_path / "outputs" / name / "checkpoints/last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        os.utime(checkpoint, (time, time))
    assert f"hydra.run.dir='{tmp_path}/outputs/first'" in resumed(["resume=last"])


def test_a_missing_photo_folder_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    cfg = Train(data=Data(name="folder", root=str(tmp_path / "nowhere")))
    imported = "torch" in sys.modules
    with pytest.raises(InputError, match="nowhere is not a folder"):
        run_training(cfg, tmp_path, [])
    assert ("torch" in sys.modules) == imported


_REFUSED = """
import sys
from pathlib import Path
from sagehound.cli.command import run_training
from sagehound.config import Data, Train
try:
    run_training(Train(data=Data(name="folder", root="photos")), Path("run"), [])
finally:
    assert "torch" not in sys.modules
"""


def test_the_folder_of_another_run_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    for name in ("run", "photos"):
        (tmp_path / name).mkdir()
    (tmp_path / "run/config.yaml").touch()
    done = subprocess.run([sys.executable, "-c", _REFUSED], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("sagehound.errors.ConfigError: run holds another run: "), done.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_resume_from_a_single_file_uses_a_new_folder(tmp_path: Path) -> None:
    (tmp_path / "copy.ckpt").touch()
    given = resumed([f"resume={tmp_path}/copy.ckpt", "data=demo"])
    assert given == ["data=demo", f"resume='{tmp_path}/copy.ckpt'"]


def test_resume_into_another_folder(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/last.ckpt").touch()
    given = resumed([f"resume={tmp_path}/run", "hydra.run.dir=new"])
    assert [o for o in given if o.startswith("hydra.run.dir")] == ["hydra.run.dir=new"]


def test_resume_without_a_run_names_the_searched_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no run in outputs left"):
        resumed(["resume=last"])
    assert resumed(["data=demo"]) == ["data=demo"]


def test_a_run_without_a_checkpoint_cannot_be_resumed(tmp_path: Path) -> None:
    for name in ("config.yaml", "overrides.yaml"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"left no checkpoint: start it again .*overrides.yaml lists its settings"):
        resumed([f"resume={tmp_path}"])


def test_end_quickly_runs_atexit_functions_and_waits_for_threads() -> None:
    code = (
        "import atexit, threading, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from sagehound.system.machine import end_quickly\n"
        "pool = ThreadPoolExecutor(1)\n"  # idle, and never shut down
        "pool.submit(print, 'pool').result()\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\n"
        "atexit.register(print, 'registered')\n"
        "end_quickly()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["pool", "thread", "registered"], "")
