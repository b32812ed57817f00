"""monitor.captured=s3://...: the captures of an endpoint in the emulator, compared here or in a processing job."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulator_helpers import client
from helpers import ROOT, Command

from sagehound.inference.formats import JSON
from sagehound.serving.request_capture import CapturedCall
from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings

BUCKET = "captures"


def put(emulator: Emulator, key: str, *photos: bytes) -> None:
    s3 = client(emulator, "s3")
    lines = "".join(CapturedCall("dogs", "image/jpeg", photo, JSON, b"{}").line() for photo in photos)
    s3.put_object(Bucket=BUCKET, Key=key, Body=lines.encode())


@pytest.mark.slow
def test_the_newest_requests_are_fetched_and_compared(
    launch: Command, emulator: Emulator, run: Path, run_photos: Path, tmp_path: Path
) -> None:
    photos = [file.read_bytes() for file in sorted(run_photos.rglob("test/*/*"))]
    location = {"LocationConstraint": "us-west-2"}
    client(emulator, "s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)
    put(emulator, "dogs/AllTraffic/2026/01/01/00/00-00-000-a.jsonl", b"old, and no photo")
    put(emulator, "dogs/AllTraffic/2026/01/02/00/00-00-000-b.jsonl", *photos[:6])
    put(emulator, "dogs/Other/2026/01/03/00/00-00-000-c.jsonl", *photos[6:])
    arguments = ["monitor=local", f"model={run}", "aws=emulator", "aws.region=us-west-2"]
    done = launch(*arguments, f"monitor.captured=s3://{BUCKET}/dogs", "monitor.window=6", "hydra.run.dir=out")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/monitor.json").read_text())
    assert found["photos"] == {"window": 6, "baseline": 9, "unreadable": 0, "repeated": 0}
    rows = (tmp_path / "out/monitor.csv").read_text().splitlines()[1:]
    assert all(row.startswith("Other/2026/01/03/00/00-00-000-c.jsonl#") for row in rows), "the newest"
    for place, code, message in (
        ("s3://", 2, "monitor.captured=s3://: give s3://BUCKET/PREFIX"),
        (f"s3://{BUCKET}/cats", 3, "no .jsonl file of captured requests lies below it"),
        ("s3://nowhere/dogs", 2, "reading s3://nowhere/dogs"),
    ):
        done = launch(*arguments, f"monitor.captured={place}")
        assert done.returncode == code, done.stderr
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def with_sources(tmp_path: Path) -> Iterator[Emulator]:
    """An emulator whose containers import the sources of these tests."""
    settings = Settings(variables=("SAGEHOUND_CACHE", "PYTHONPATH"))
    with Emulator(tmp_path / ".emulator", settings=settings) as running:
        yield running


@pytest.mark.slow
def test_a_processing_job_compares_them(
    launch: Command,
    with_sources: Emulator,
    run: Path,
    run_photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT / "launchers")]))
    location = {"LocationConstraint": "us-west-2"}
    client(with_sources, "s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)
    photos = [file.read_bytes() for file in sorted(run_photos.rglob("test/001*/*"))]  # of one class
    put(with_sources, "dogs/AllTraffic/2026/01/02/00/00-00-000-b.jsonl", *photos)
    arguments = ["monitor=sagemaker", f"model={run}", "aws=emulator", "aws.region=us-west-2", "monitor.alpha=0.5"]
    arguments += [f"monitor.captured=s3://{BUCKET}/dogs"]
    planned = launch(*arguments, "dry_run=true", "hydra.run.dir=planned")
    assert planned.returncode == 0, planned.stderr
    request = json.loads((tmp_path / "planned/request.json").read_text())
    assert request["AppSpecification"]["ContainerEntrypoint"] == ["sagehound", "launch"]
    assert client(with_sources, "sagemaker").list_processing_jobs()["ProcessingJobSummaries"] == []
    done = launch(*arguments, "hydra.run.dir=out", "monitor.fail=true")
    assert done.returncode == 3, done.stderr + done.stdout
    assert "have changed: " in done.stderr
    found = json.loads((tmp_path / "out/monitor.json").read_text())
    assert found["photos"] == {"window": 4, "baseline": 9, "unreadable": 0, "repeated": 0}
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        *("request.json", "monitor.json", "monitor.csv", "monitor.html")
    }
    broken = launch(*arguments[:-1], f"monitor.captured=s3://{BUCKET}/none", "hydra.run.dir=broken")
    assert broken.returncode in (3, 4), broken.stderr
    assert len(broken.stderr.splitlines()) == 1
