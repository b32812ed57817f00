"""`transform=sagemaker`: the same lines as transform=local, from a job that really runs."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from emulator_helpers import client
from helpers import Command
from request_helpers import ACCOUNT, config, held

from sagehound.errors import InputError
from sagehound_launchers.sagemaker.batch_transform import Source, job_request
from sagehound_launchers.sagemaker.requests import check
from sagemaker_emulator.server import Emulator


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_the_request() -> None:
    cfg = config("transform=sagemaker", "model=run", "transform.instance_count=3", "aws.kms_key=key")
    source = Source("kennel", "dogs/", {"a.jpg": ("1", 30 * 2**20), "b.jpg": ("2", 5)}, others=1)
    request = job_request("sagehound-1", cfg, getattr(cfg, "transform"), source, ACCOUNT.bucket)  # noqa: B009
    check("CreateTransformJob", request)
    held("transform", request)
    large = Source("kennel", "dogs/", {"a.jpg": ("1", 101 * 2**20)}, others=0)
    with pytest.raises(InputError, match=r"s3://kennel/dogs/a.jpg: more than 100 MB"):
        job_request("sagehound-1", cfg, getattr(cfg, "transform"), large, ACCOUNT.bucket)  # noqa: B009


@pytest.mark.slow
def test_a_job_predicts_as_this_machine_does(
    launch: Command, run: Path, run_photos: Path, tmp_path: Path, emulator: Emulator
) -> None:
    shutil.copytree(run_photos / "test", tmp_path / "mine")
    (tmp_path / "mine/not a photo.jpg").write_text("x")
    given = [f"model={run}", "data=folder", "data.root=mine"]
    local = launch("transform=local", *given, "transform.output=local.csv")
    assert local.returncode == 0, local.stderr
    there = launch("transform=sagemaker", *given, "aws=emulator", "transform.output=remote.csv")
    assert there.returncode == 0, there.stderr
    here, remote = rows(tmp_path / "local.csv"), rows(tmp_path / "remote.csv")
    assert here.keys() == remote.keys()
    assert remote["not a photo.jpg"]["error"] == here["not a photo.jpg"]["error"] == "not an image file"
    del here["not a photo.jpg"], remote["not a photo.jpg"]
    assert all(here[name]["prediction"] == remote[name]["prediction"] for name in here)
    assert all(abs(float(here[n]["probability"]) - float(remote[n]["probability"])) < 1e-4 for n in here)
    assert (tmp_path / "remote_per_class.csv").read_text() == (tmp_path / "local_per_class.csv").read_text()
    tested = json.loads((run / "metrics.json").read_text())["test"]["top1"]
    assert f"accuracy: {tested:.1%} of 12 photos" in there.stdout
    sm, s3 = client(emulator, "sagemaker"), client(emulator, "s3")
    assert sm.list_models()["Models"] == [], "the job's model is deleted"

    command = ["transform=sagemaker", *given, "aws=emulator", "transform.output=remote.csv"]
    written = (tmp_path / "remote.csv").read_bytes()
    (job,) = sm.list_transform_jobs()["TransformJobSummaries"]
    assert job["TransformJobStatus"] == "Failed", "one file is no photo"
    again = launch(*command)
    assert (again.returncode, f"following the transform job {job['TransformJobName']} again" in again.stdout) == (
        0,
        True,
    )
    assert len(sm.list_transform_jobs()["TransformJobSummaries"]) == 1, "no second one is paid"

    prefix = f"sagehound/transform/{job['TransformJobName']}/out/"
    for item in s3.list_objects_v2(Bucket="sagemaker-us-west-2-123456789012", Prefix=prefix)["Contents"]:
        s3.delete_object(Bucket="sagemaker-us-west-2-123456789012", Key=item["Key"])
    later = launch(*command)
    assert later.returncode == 0, later.stderr
    assert f"transform job {job['TransformJobName']}-2 runs" in later.stdout, "a name can be used once"
    assert (tmp_path / "remote.csv").read_bytes() == written

    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.jpg").write_text("no photo")
    none = launch(*command, "data.root=none")
    assert (none.returncode, len(none.stderr.splitlines())) == (4, 1), none.stderr
    assert (tmp_path / "remote.csv").read_bytes() == written, "former predictions stay"


@pytest.mark.slow
def test_a_job_is_followed_again_and_photos_in_s3_need_no_folder(
    launch: Command, run: Path, run_photos: Path, tmp_path: Path, emulator: Emulator
) -> None:
    s3 = client(emulator, "s3")
    s3.create_bucket(Bucket="mine", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    for photo in (run_photos / "test/002.Slate").iterdir():
        s3.put_object(Bucket="mine", Key=f"dogs/Slate/{photo.name}", Body=photo.read_bytes())
    s3.put_object(Bucket="mine", Key="dogs/readme.txt", Body=b"no photo")
    given = ["transform=sagemaker", f"model={run}", "data=demo", "data.s3=s3://mine/dogs", "aws=emulator"]
    first = launch(*given, "transform.format=jsonl", "transform.output=a.jsonl")
    assert first.returncode == 0, first.stderr
    again = launch(*given, "transform.output=b.csv")
    assert "following the transform job" in again.stdout
    assert len(client(emulator, "sagemaker").list_transform_jobs()["TransformJobSummaries"]) == 1
    assert {json.loads(line)["label"] for line in (tmp_path / "a.jsonl").open()} == {"Slate"}
    assert len(rows(tmp_path / "b.csv")) == 4
    empty = launch(*given, "data.s3=s3://mine/cats")
    assert (empty.returncode, "s3://mine/cats/: no photo is there" in empty.stderr) == (3, True)
