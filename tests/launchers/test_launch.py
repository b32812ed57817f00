"""python launch.py: the stages, in their order, and what is wrong with a command."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, Command, Server, small_all

from sagehound.errors import ConfigError
from sagehound_launchers.stages.deploy import names

PHOTOS = ["data=folder", "data.root=nowhere"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deploy=loca"], "deploy=loca: no such option (did you mean local?)"),
        (["deploy.port=1"], "deploy.port: no deploy was chosen: add deploy=..."),
        (["deploy=local", "deploy.prt=1"], "deploy.prt: no such key (did you mean deploy.port?)"),
        (["deploy=local", "deploy.port=70000"], "deploy.port=70000: must be at least 0 and at most 65535"),
        (["deploy=local", "deploy.host="], "deploy.host= is empty"),
        (["deply=local"], "deply"),
        (["model=run"], "model=run: no stage uses it: choose one of bias, deploy, monitor, registry, transform"),
        (["deploy=local", "results=scores"], "results=scores and artifact=false leave no model.tar.gz"),
        (["-m", "transform=local", "seed=1,2"], "transform needs one model: drop -m"),
        (["transform=local", "model=[a,b]"], "transform takes one model, not 2"),
        (["transform=local", "model=a", "transform.output=x.txt"], "does not end in .csv"),
        (["probe=local"], "probe needs endpoint="),
        (["probe=local", "endpoint=name"], "with probe=local give an address"),
        (["probe=sagemaker", "endpoint=http://x"], "with probe=sagemaker give the endpoint's name"),
        (["probe=local", "endpoint=http://x", "n=0"], "n=0: give a number of photos from 1 on, or all"),
        (["probe=local", "endpoint=http://x", "n=some"], "n=some: give a number of photos from 1 on, or all"),
        (["endpoint=http://x"], "is of probe only"),
        (["deploy=local", "probe=local", "endpoint=http://x"], "deploy=local keeps this terminal"),
        (["model=~/run", "deploy=local"], "quote the value for Hydra too"),
        (["optimizer.lr=-1"], "optimizer.lr=-1.0: must be above 0"),
    ],
)
def test_a_wrong_command_ends_in_one_line_and_code_2(
    launch: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = launch(*PHOTOS, *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("outputs/*/*"))


def test_help_names_the_stages(launch: Command, command: Command) -> None:
    assert "deploy: async, local, multi_model, sagemaker, serverless" in launch("--help").stdout
    assert "deploy" not in command("--help").stdout, "train.py knows no stages"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--cfg", "job"], ["deploy=loca"], ["deploy=local", "model=nowhere"]]
)
def test_answers_without_importing_torch(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['launch.py', *{arguments!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'launch.py')!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'torchvision', 'timm', 'lightning', 'matplotlib', 'boto3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print('light')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("light\n"), done.stderr


def test_a_model_that_is_not_there(launch: Command, tmp_path: Path) -> None:
    for stage in ("deploy=local", "transform=local"):
        done = launch(stage, "model=nowhere", "data=folder", f"data.root={tmp_path}")
        assert done.returncode == 3
        assert len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken(launch: Command, run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = launch("deploy=local", f"model={run}", f"deploy.port={taken.getsockname()[1]}")
    assert done.returncode == 2
    assert "is taken by another program; choose another" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_models_are_named_after_their_runs(tmp_path: Path) -> None:
    assert names([str(tmp_path / "a"), str(tmp_path / "b/model.tar.gz"), "c.tar.gz"]) == {
        "a": str(tmp_path / "a"),
        "b": str(tmp_path / "b/model.tar.gz"),
        "c": "c.tar.gz",
    }
    with pytest.raises(ConfigError, match="would both be called a"):
        names([str(tmp_path / "a"), str(tmp_path / "b/a")])


@pytest.mark.slow
def test_several_models_behind_one_server(run: Path, tmp_path: Path, photo: bytes) -> None:
    (tmp_path / "other").symlink_to(run)
    copy = tmp_path / "copy.tar.gz"
    copy.write_bytes((run / "model.tar.gz").read_bytes())
    server = Server(tmp_path, f"model=[{run},{copy}]")
    assert [m["modelName"] for m in server.request("GET", "/models").json()["models"]] == ["copy", "run"]
    assert server.request("POST", "/models/copy/invoke", photo, Content_Type="image/jpeg").json()["label"] == "Slate"
    answer = server.invoke(photo)
    assert answer.status == 400
    assert "which model? Send it to /models/NAME/invoke: copy, run" in answer.json()["error"]["message"]
    assert server.stop() == (143, "")


@pytest.mark.slow
def test_without_a_model_one_is_trained_first(launch: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    """One command: train, predict a folder with what was trained."""
    done = launch(*small_all(photos, weights), "artifact=true", "transform=local", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "test accuracy:" in done.stdout
    assert "predictions of 45 photos:" in done.stdout
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test"]["photos"] == 12
    assert (tmp_path / "run/model.tar.gz").exists()
