"""Programs after the documentation of SageMaker's SDKs run unchanged, in environments of their own.

Each is started as a user would: the emulator by its command, and one line that sets up the shell. SDK 3 is in this
project's own environment; SDK 2 needs another one: `make .venv-sdk2/.installed`, or SAGEMAKER_SDK2_PYTHON.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from emulator_helpers import processes, until
from helpers import ROOT

PROGRAMS = Path(__file__).parents[1] / "sdk_programs"
SDK2 = Path(os.environ.get("SAGEMAKER_SDK2_PYTHON", ROOT / ".venv-sdk2/bin/python"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the programs read: sources and two photos."""
    shutil.copytree(PROGRAMS / "source", tmp_path / "source")
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"photos/{name}.jpg").write_text(name)
    return tmp_path


def emulator(folder: Path, python: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sagemaker_emulator", "--folder", str(folder / "emulator")]
    image = f"pytorch-(training|inference)={python.parents[1]}"
    process = subprocess.Popen(
        [*command, "--image", image], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    until((folder / "emulator/address.json").exists, bool, 60)
    return process


def run(folder: Path, python: Path, program: str) -> str:
    """Run a program to its end, and return what it printed."""
    setup = shlex.join([sys.executable, "-m", "sagemaker_emulator", "env", "--folder", str(folder / "emulator")])
    program_line = shlex.join([str(python), str(PROGRAMS / program), str(folder)])
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "SAGEMAKER_"))}
    done = subprocess.run(
        ["bash", "-c", f'eval "$({setup})"; exec {program_line}'],
        cwd=folder,
        env=environment | {"MARKER": str(folder), "HOME": str(folder), "PYTHONPATH": str(PROGRAMS / "quick")},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def started(folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An emulator that runs images in the environment of a Python."""
    process = emulator(folder, request.param)
    yield request.param
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert errors == ""
    assert not processes(str(folder))


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("sagemaker"), reason="SageMaker's SDK 3 is not installed")
@pytest.mark.parametrize("started", [Path(sys.executable)], indirect=True)
def test_sdk_3(started: Path, folder: Path) -> None:
    printed = run(folder, started, "sdk3.py")
    steps = ("training", "tuning", "remote function", "endpoint", "batch transform", "processing")
    assert [line.partition("done: ")[2] for line in printed.splitlines() if "done: " in line] == list(steps)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("sagemaker"), reason="SageMaker's SDK 3 is not installed")
@pytest.mark.parametrize("started", [Path(sys.executable)], indirect=True)
def test_a_pipeline_of_sdk_3(started: Path, folder: Path) -> None:
    printed = run(folder, started, "pipeline3.py")
    assert "done: seven steps in" in printed
    assert "done: the other branch, with a cached step" in printed


@pytest.mark.slow
@pytest.mark.skipif(not SDK2.exists(), reason="no environment with SageMaker's SDK 2: make .venv-sdk2/.installed")
@pytest.mark.parametrize("started", [SDK2], indirect=True)
def test_sdk_2(started: Path, folder: Path) -> None:
    printed = run(folder, started, "sdk2.py")
    assert '{"done": true}' in printed
    assert "role arn:aws:iam::123456789012:role/SageMakerRole bucket sagemaker-us-west-2-123456789012" in printed
