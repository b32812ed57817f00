"""The benchmarks run on tiny photos; their timings are not checked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow


def run(script: str, *arguments: object) -> list[list[str]]:
    """The cells of the table's rows."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1:]]


def test_a_head_beside_the_plain_script(photos: Path, weights: Path) -> None:
    given = ["--data", photos, "--weights", weights, "--backbone", "test_resnet", "--rounds", 1]
    first, again = run("head.py", *given, "--photos", 60, "--no-sweep", "artifact=false")
    assert first[0] == "head, 10 epochs: test_resnet, 60 photos"
    assert again[2].endswith("(the first)")


def test_memory_of_a_large_head(tmp_path: Path) -> None:
    ((claim, peak, *_),) = run("memory.py", "--photos", 400, "--features", 64)
    assert claim == "peak memory, 400 photos x 64 features"
    assert 0.1 < float(peak.split()[0]) < 4


def test_loading_beside_torchvision(photos: Path) -> None:
    rows = run("loader.py", "--data", photos, "--rounds", 1, "--larger", 90)
    assert len(rows) == 12
    assert all(row[3].endswith("x") for row in rows)


def test_the_server_beside_a_scripts(photos: Path, weights: Path) -> None:
    given = ["--data", photos, "--weights", weights, "--backbone", "test_resnet", "--rounds", 1]
    if shutil.which("wrk") is None:
        pytest.skip("no wrk: apt-get install wrk")
    few = ["--photos", "small", "--clients", 2, "--seconds", 1, "--peers", "FastAPI", "--parts", "start", "peers"]
    rows = run("serving.py", *given, "--source", photos, *few)
    rows = [row for row in rows if len(row) == 5 and row[0] != "claim"]
    assert len(rows) == 2
    assert rows[0][0] == "python launch.py deploy=local to the first answer"
    assert rows[1][0].endswith("photos a second, beside FastAPI")


def test_sending_photos_beside_a_loop() -> None:
    rows = run("upload.py", "--photos", 60, "--rounds", 1)
    assert len(rows) == 5
    assert rows[-1][1].startswith("0 objects, 0 bytes")


def test_ways_to_fine_tune_beside_the_head(photos: Path, weights: Path) -> None:
    given = ["--data", photos, "--weights", weights, "--backbone", "test_resnet", "--sets", "woof10"]
    head, full = run("accuracy.py", *given, "--methods", "head", "full", "--epochs", 1, "--seeds", 1, "--folds", 1)
    assert [head[1], full[1]] == ["head", "full"]
    assert full[4].count(",") == 2
    assert full[5], "the weights that were kept"
