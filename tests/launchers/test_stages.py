"""A stage from outside: one file of Python and one option, found by its entry point."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, small_all

STAGE = '''
"""`count=local`: the bytes of a model."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from sagehound.config import key
from sagehound_launchers.config import Launch
from sagehound_launchers.config.stage import Stage


@dataclass
class Count:
    """The bytes of a model."""

    name: str = key("where it is counted", MISSING, choices=("local",))
    unit: int = key("bytes", 1, at_least=1)

    def conflicts(self, cfg: Launch) -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if self.unit > 1000 and cfg.seed:
            yield "count.unit is above 1000: drop seed"


def count(cfg: Launch, own: Count, models: Sequence[str], folder: Path) -> None:
    """Write bytes.json into the run's folder."""
    found = {model: Path(model, "model.tar.gz").stat().st_size // own.unit for model in models}
    folder.joinpath("bytes.json").write_text(json.dumps(found))


STAGE = Stage("count", Count, 30, count, needs_model=True)
'''


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An installed package with the stage, and the stage's option in a folder of the user's."""
    package = tmp_path / "package"
    about = package / "counting-1.0.dist-info"
    about.mkdir(parents=True)
    (package / "counting.py").write_text(STAGE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[sagehound.stages]\ncount = counting:STAGE\n")
    (tmp_path / "conf/count").mkdir(parents=True)
    (tmp_path / "conf/count/local.yaml").write_text("name: local\nunit: 10\n")
    return package


def launch(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python launch.py ...` where the package is installed."""
    paths = os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), f"--config-dir={package.parent / 'conf'}", *arguments],
        cwd=package.parent,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_stage_of_another_package_runs(package: Path, run: Path) -> None:
    done = launch(package, "count=local", f"model={run}", "data.root=nowhere", "hydra.run.dir=counted")
    assert done.returncode == 0, done.stderr
    found = json.loads((package.parent / "counted/bytes.json").read_text())
    assert found == {str(run): (run / "model.tar.gz").stat().st_size // 10}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count=local", "count.unit=0"], "count.unit=0: must be at least 1"),
        (["count=local", "count.unit=1001", "seed=1"], "count.unit is above 1000: drop seed"),
        (["count.unit=2"], "count.unit: no count was chosen: add count=..."),
        (["count=local", "results=scores"], "leave no model.tar.gz, which count needs"),
        (["-m", "count=local", "seed=1,2"], "count needs one model: drop -m"),
        (["model=run"], "no stage uses it: choose one of bias, count, deploy, monitor, registry, transform"),
    ],
)
def test_the_rules_of_stages_hold_for_it(package: Path, arguments: list[str], message: str) -> None:
    done = launch(package, *arguments, "data=folder", "data.root=nowhere")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_it_trains_a_model_where_none_is_given(package: Path, run_photos: Path, weights: Path) -> None:
    done = launch(package, *small_all(run_photos, weights), "artifact=true", "count=local", "hydra.run.dir=trained")
    assert done.returncode == 0, done.stderr
    assert list(json.loads((package.parent / "trained/bytes.json").read_text())) == [str(package.parent / "trained")]
