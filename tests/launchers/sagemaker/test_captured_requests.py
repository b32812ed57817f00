"""monitor.captured=s3://...: the captures of an endpoint in the emulator, compared here or in a processing job."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emulator_helpers import client
from helpers import ROOT, Command

from sagehound.inference.request_body import JSON
from sagehound.monitoring.photo_sources import of_captures
from sagehound.serving.request_capture import CapturedCall
from sagehound_launchers.config import Aws
from sagehound_launchers.sagemaker.account import open_session
from sagehound_launchers.sagemaker.captured_requests import fetch
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


def test_keys_that_are_no_names_of_files(emulator: Emulator, tmp_path: Path) -> None:
    client(emulator, "s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    keys = ["a.jsonl", "a.jsonl/2026/01/02/00/b.jsonl", f"2026/01/03/00/{'c' * 300}.jsonl", "../2026/01/01/00/d.jsonl"]
    for number, key in enumerate(keys):
        put(emulator, f"dogs/{key}", str(number).encode())
    (tmp_path / "there").mkdir()
    session = open_session(Aws(name="emulator", folder=str(emulator.folder)))
    names = fetch(session, f"s3://{BUCKET}/dogs", tmp_path / "there", 100)
    assert set(names.values()) == set(keys)
    arrived = list(of_captures(tmp_path / "there", names))
    assert {a.name.partition("#")[0]: a.content for a in arrived} == {k: str(i).encode() for i, k in enumerate(keys)}
    assert [a.name.partition("/")[2][:10] for a in arrived[1:]] == ["01/03/00/c", "2026/01/02", "2026/01/01"], "newest"


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

    def jobs() -> list[dict[str, Any]]:
        summaries: list[dict[str, Any]] = client(with_sources, "sagemaker").list_processing_jobs()[
            "ProcessingJobSummaries"
        ]
        return summaries

    assert jobs() == []
    done = launch(*arguments, "hydra.run.dir=out", "monitor.fail=true")
    assert done.returncode == 3, done.stderr + done.stdout
    assert "have changed: " in done.stderr
    found = json.loads((tmp_path / "out/monitor.json").read_text())
    assert found["photos"] == {"window": 4, "baseline": 9, "unreadable": 0, "repeated": 0}
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        *("request.json", "monitor.json", "monitor.csv", "monitor.html")
    }
    again = launch(*arguments, "hydra.run.dir=again")
    assert (again.returncode, "following the processing job sagehound-monitor-" in again.stdout) == (0, True)
    assert (tmp_path / "again/monitor.csv").read_bytes() == (tmp_path / "out/monitor.csv").read_bytes()
    put(with_sources, "dogs/AllTraffic/2026/01/03/00/00-00-000-c.jsonl", b"no photo")
    other = launch(*arguments, "hydra.run.dir=other")
    assert "processing job sagehound-monitor-" in other.stdout, "new requests are another job"
    names = [j["ProcessingJobName"] for j in jobs()]
    assert len(names) == 2, names


def test_nothing_was_captured(launch: Command, run: Path, emulator: Emulator) -> None:
    client(emulator, "s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    arguments = ["monitor=sagemaker", f"model={run}", "aws=emulator", f"monitor.captured=s3://{BUCKET}/none"]
    done = launch(*arguments)
    assert done.returncode == 3, done.stderr
    assert f"monitor.captured=s3://{BUCKET}/none: no captured request lies below it" in done.stderr
    assert client(emulator, "sagemaker").list_processing_jobs()["ProcessingJobSummaries"] == []
