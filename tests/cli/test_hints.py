"""Common mistakes on the command line, and the suggested overrides or commands."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, Command
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from sagehound.cli import hints
from sagehound.config import typed
from sagehound.config.overrides import override
from sagehound.errors import ConfigError
from sagehound.system import program

PLAIN = [
    ("lr=0.01", "optimizer.lr=0.01"),
    ("+lr=0.01", "optimizer.lr=0.01"),
    ("train.lr=0.01", "optimizer.lr=0.01"),
    ("learning_rate=0.01", "optimizer.lr=0.01"),
    ("epochs=5", "trainer.max_epochs=5"),
    ("trainer.epochs=5", "trainer.max_epochs=5"),
    ("max_epochs=5", "trainer.max_epochs=5"),
    ("batch_size=32", "data.batch_size=32"),
    ("batch=32", "data.batch_size=32"),
    ("model=resnet50", "backbone=resnet50"),
    ("model=vit_tiny_patch16_224", "backbone.name=vit_tiny_patch16_224"),
    ("workers=2", "data.workers=2"),
    ("num_workers=2", "data.workers=2"),
    ("gpus=2", "trainer.accelerator=gpu trainer.devices=2"),
    ("gpus=0", "trainer.accelerator=cpu"),
    ("gpus=-1", "trainer.accelerator=gpu trainer.devices=null"),
    ("gpus=0,1", "trainer.accelerator=gpu trainer.devices=2"),
    ("gpus=[0]", "trainer.accelerator=gpu trainer.devices=1"),
    ("devices=-1", "trainer.accelerator=gpu trainer.devices=null"),
    ("device=cuda", "trainer.accelerator=gpu"),
    ("device=cpu", "trainer.accelerator=cpu"),
    ("precision=16", "trainer.precision=16-mixed"),
    ("precision=bf16-mixed", "trainer.precision=bf16-mixed"),
    ("pretrained=false", "finetune=full backbone.pretrained=false"),
    ("pretrained=true", "backbone.pretrained=true"),
    ("dropout=0.5", "head.dropout=0.5"),
    ("hidden=[512,256]", "'head.hidden=[512,256]'"),
    ("patience=3", "trainer.patience=3"),
    ("momentum=0.9", "optimizer=sgd optimizer.momentum=0.9"),
    ("weight_decay=0.1", "optimizer.weight_decay=0.1"),
    ("wd=0.1", "optimizer.weight_decay=0.1"),
    ("optim=Adam", "optimizer=adam"),
    ("scheduler=plateau", "schedule=plateau"),
    ("root=photos", "data=folder data.root=photos"),
    ("data=photos", "data=folder data.root=photos"),
    ("data=/photos/of dogs", "data=folder 'data.root=/photos/of dogs'"),
    ("data=~/Fotos (müde)", "data=folder \"data.root='~/Fotos (müde)'\""),
    ("data_dir=it's", "data=folder 'data.root='\"'\"'it\\'\"'\"'s'\"'\"''"),
    ("--lr 0.01", "optimizer.lr=0.01"),
    ("--lr=0.01", "optimizer.lr=0.01"),
    ("--batch-size 32", "data.batch_size=32"),
    ("--epochs 5", "trainer.max_epochs=5"),
    ("--data photos", "data=folder data.root=photos"),
    ("--backbone resnet18", "backbone=resnet18"),
    ("--no-artifact", "artifact=false"),
    ("--flip", "augment.flip=true"),
    ("--lr 0.01 --epochs 5 seed=1", "optimizer.lr=0.01 trainer.max_epochs=5"),
]


def hint(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("sys.argv", ["train.py", *argv])
    with pytest.raises(ConfigError) as refused:
        hints.check(argv, ROOT / "conf")
    message = str(refused.value)
    assert "\n" not in message
    assert message.endswith("?")
    return message


@pytest.mark.parametrize(("given", "meant"), PLAIN)
def test_the_right_override_is_suggested(given: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = given.split() if given.startswith("--") else [given]
    message = hint(argv, monkeypatch)
    assert message.partition("; did you mean ")[2] == f"{meant}?"
    pasted = shlex.split(meant)
    hints.check(pasted, ROOT / "conf")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        typed(compose("train", overrides=["data=demo", *pasted]))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lr=0.01"], "lr: no such key; did you mean optimizer.lr=0.01?"),
        (["lr=1", "wd=0"], "lr, wd: no such key; did you mean optimizer.lr=1 optimizer.weight_decay=0?"),
        (["--lr", "1"], "--lr: settings are written key=value; did you mean optimizer.lr=1?"),
        (["data=p/q"], "data=p/q: no such option; did you mean data=folder data.root=p/q?"),
        (["data=folder", "root=p"], "root: no such key; did you mean data.root=p?"),
    ],
)
def test_the_whole_command_line_is_corrected(argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hint(argv, monkeypatch) == message


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["--epochs"], "trainer.max_epochs=..."),
        (["--resume"], "resume=last"),
        (["--data", "--lr"], "data=... optimizer.lr=..."),
        (["--model"], "backbone=..."),
        (["lr=true"], "optimizer.lr=..."),
        (["lr="], "optimizer.lr=..."),
        (["lr=null"], "optimizer.lr=..."),
        (["flip=maybe"], "augment.flip=..."),
        (["model=null"], "backbone=..."),
        (["lr=1e-3,1E-2"], "optimizer.lr=1e-3,1E-2"),
        (["patience=null"], "trainer.patience=null"),
    ],
)
def test_invalid_values_are_not_suggested(argv: list[str], meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hint(argv, monkeypatch).partition("; did you mean ")[2] == f"{meant}?"


def test_an_empty_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="an empty word, perhaps from a shell variable"):
        hints.check(["seed=1", ""], ROOT / "conf")


LAUNCH = [
    (["hpo=optuna", "seed=1"], "-m hpo=optuna seed=1"),
    (["hpo=optuna", "-m", "lr=0.1"], "-m hpo=optuna optimizer.lr=0.1"),
    (["hpo.max_jobs=3"], "-m hpo=optuna hpo.max_jobs=3"),
    (["deploy=local", "model=a run"], "deploy=local 'model=a run'"),
    (["--deploy", "local"], "deploy=local"),
    (["--deploy"], "deploy=local"),
    (["transform=local", "data.root=x"], "transform=local data.root=x"),
    (["probe=local", "endpoint=http://localhost:1"], "probe=local endpoint=http://localhost:1"),
    (["image=ecr"], "image=ecr"),
    (["aws=emulator", "trainer=sagemaker"], "aws=emulator trainer=sagemaker"),
    (["trainer=sagemaker", "data.s3=s3://bucket/photos"], "trainer=sagemaker data.s3=s3://bucket/photos"),
]


@pytest.mark.parametrize(("argv", "line"), LAUNCH)
def test_settings_of_launch_suggest_its_command(
    argv: list[str], line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a run").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hint(argv, monkeypatch).partition("; did you mean ")[2] == f"python launch.py {line}?"


@pytest.mark.slow
def test_the_command_lines_of_launch_compose() -> None:
    """Runs in another process, because a process has only one schema."""
    lines = [shlex.split(line.removeprefix("-m ")) for _, line in LAUNCH]
    code = (
        "import hydra, sys, sagehound_launchers.launch\n"
        f"with hydra.initialize_config_dir({str(ROOT / 'conf')!r}, version_base='1.3'):\n"
        f"    print(*(hydra.compose('launch', line).seed for line in {lines!r}))"
    )
    composed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert composed.stdout.split() == ["1", *"0000000000"], composed.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ["data=demo"],
        ["-m", "data=demo,folder"],
        ["data=dem"],  # Hydra suggests demo
        ["--cfg", "job", "-c", "all", "--info", "--resolve"],
        ["+debugger.rules.overfit.patience=3", "debugger=sagemaker"],
        ["~artifact", "hydra.run.dir=x", "optimizer@_global_.optimizer=adam", "experiment=x", "optimizer.lrr=1"],
        ["optimizer.lr"],
    ],
)
def test_valid_overrides_and_those_that_hydra_rejects_pass(argv: list[str]) -> None:
    hints.check(argv, ROOT / "conf")


@pytest.mark.parametrize("value", ["it's", "a\\", "a\\'b", "a\\\\b", "C:\\Users\\müde", "a,b", "[a]", "(a", "~/a", '"'])
def test_any_path_can_be_quoted(value: str) -> None:
    parsed = OverridesParser.create().parse_override(override("data.root", value))
    assert parsed.value() == value
    assert shlex.split(program.quoted(value)) == [value]


@pytest.mark.parametrize("program", ["command", "launch"])
def test_the_real_commands(program: str, request: pytest.FixtureRequest) -> None:
    run: Command = request.getfixturevalue(program)
    done = run("lr=0.01", "--model", "resnet50")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("; did you mean optimizer.lr=0.01 backbone=resnet50?\n")
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(ConfigError, match="--img-size: no such flag; settings are written key=value"):
        hints.check(["--img-size", "224"], ROOT / "conf")


@pytest.mark.slow
def test_missing_weights_suggest_a_command(photos: Path, tmp_path: Path) -> None:
    environment = os.environ | {"HTTPS_PROXY": "http://127.0.0.1:9", "HF_HOME": "nowhere"}  # no server listens there
    given = [f"data.root={photos}", "data=folder", "seed=1"]
    command = [sys.executable, str(ROOT / "train.py"), *given, "backbone=resnet18"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    instead = shlex.join([str(ROOT / "train.py"), *given, "backbone=efficientnet_lite0"])
    assert done.stderr.endswith(f" Run instead: python {instead}\n")


def test_a_closed_pipe_ends_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, ROOT / "train.py", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141
