"""The wheel: built from the sdist, installed in a new environment, and used in an empty folder."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3
from helpers import ROOT, draw_few

from sagehound.storage.atomic import locked
from sagehound_launchers.sagemaker import source_archive

# the environment of the tests, without this source folder
OUTSIDE = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
GIVEN = ["data=demo", "backbone=efficientnet_lite0", "trainer.accelerator=cpu", "trainer.max_epochs=1"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the unpacked sdist once for all workers of a test session."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheel"
    with locked(folder.with_suffix(".lock")):
        if not (folder / "done").exists():
            _build("sdist", ROOT, folder)
            (sdist,) = folder.glob("*.tar.gz")
            with tarfile.open(sdist) as source:
                source.extractall(folder / "source", filter="data")
            _build("wheel", folder / "source" / sdist.name.removesuffix(".tar.gz"), folder)
            _install(next(folder.glob("*.whl")), folder / "venv")
            (folder / "done").touch()
    return next(folder.glob("*.whl"))


def _build(target: str, source: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _install(wheel: Path, venv: Path) -> None:
    """Install only the wheel. Its dependencies are imported from the tests' environment, so nothing is downloaded.

    Python reads the folder in a .pth file, but not the .pth files in that folder, such as that of an editable install.
    """
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))
    pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(pip, env=OUTSIDE, check=True)


@pytest.fixture
def bin_folder(wheel: Path) -> Path:
    """The commands of the wheel's environment."""
    return wheel.with_name("venv") / "bin"


def run(*command: object, folder: Path) -> str:
    """Run a command in a folder as a user would; returns its output."""
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=OUTSIDE, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@contextmanager
def served(*command: object, folder: Path) -> Iterator[str]:
    """Start a server; yields its address."""
    with subprocess.Popen(
        list(map(str, command)), cwd=folder, env=OUTSIDE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        match = re.search(r"http://[\d.:]+", process.stdout.readline())
        assert match
        yield match.group()
        process.terminate()
        assert process.wait(60) == 143


def test_files_of_the_wheel(wheel: Path, bin_folder: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    configs = {p.relative_to(ROOT).as_posix() for p in (ROOT / "conf").rglob("*.yaml")}
    assert {n.removeprefix("sagehound/") for n in names if n.startswith("sagehound/conf/")} == configs
    assert {"sagehound/py.typed", "sagehound_launchers/py.typed", "sagehound/serving/page/index.html"} <= set(names)
    assert "sagehound_launchers/sagemaker/prices.yaml" in names
    assert "hydra_plugins/__init__.py" not in names, "the namespace is shared with other packages"
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names)
    assert {n.partition("/")[0] for n in names if ".dist-info/" not in n} == {
        "sagehound",
        "sagehound_launchers",
        "sagemaker_emulator",
        "hydra_plugins",
    }
    commands = {p.name for p in bin_folder.iterdir()}
    assert {"sagehound", "sagemaker-emulator"} <= commands
    assert not {"train", "serve"} & commands


def test_from_an_empty_folder(bin_folder: Path, tmp_path: Path) -> None:
    """Train, predict and serve with only the wheel."""
    code = "import sagehound, sagehound_launchers, hydra_plugins.sagehound as h; print(sagehound.__version__)\n"
    code += "for p in (sagehound, sagehound_launchers, h): print(p.__file__)"
    version, *files = run(bin_folder / "python", "-c", code, folder=tmp_path).splitlines()
    assert all(Path(file).is_relative_to(bin_folder.parent) for file in files)
    sagehound = bin_folder / "sagehound"
    assert run(sagehound, "--version", folder=tmp_path) == f"sagehound {version}\n"

    shown = run(sagehound, "train", *GIVEN, "hydra.run.dir=run", folder=tmp_path)
    assert "test accuracy:" in shown
    assert (tmp_path / "run/model.tar.gz").exists()
    photo = next(iter(sorted(tmp_path.rglob("test/*/*.jpg"))))
    (line,) = run(sagehound, "predict", "run", photo, folder=tmp_path).splitlines()
    with served(sagehound, "serve", "run", "deploy.port=0", folder=tmp_path) as url:
        response = urllib3.request(
            "POST", f"{url}/invocations", body=photo.read_bytes(), headers={"Content-Type": "image/jpeg"}
        )
        page = urllib3.request("GET", url)
    assert response.status == 200
    assert line.startswith(f"{photo}: {response.json()['label']}, probability ")
    assert page.status == 200


def test_a_remote_job_gets_the_installed_packages(bin_folder: Path, tmp_path: Path) -> None:
    """The archive for a job equals that of a checkout without git, and a job trains with it."""
    code = (
        "from sagehound.system import project\n"
        "from sagehound_launchers.sagemaker import source_archive\n"
        "with project.folder() as folder:\n"
        "    assert (folder / 'Dockerfile').exists()\n"
        "    print(source_archive.make(folder, tracked=False).digest)"
    )
    digest = run(bin_folder / "python", "-c", code, folder=tmp_path).strip()
    assert digest == source_archive.make(ROOT, tracked=False).digest
    draw_few(tmp_path / "data/demo")
    given = ["trainer=sagemaker", "aws=emulator", *GIVEN, "hydra.run.dir=remote"]
    run(bin_folder / "sagehound", "launch", *given, folder=tmp_path)
    assert json.loads((tmp_path / "remote/metrics.json").read_text())["test"]["photos"]
    job = json.loads((tmp_path / "remote/job.json").read_text())
    (code_channel,) = [c for c in job["request"]["InputDataConfig"] if c["ChannelName"] == "code"]
    assert digest in json.dumps(code_channel)
