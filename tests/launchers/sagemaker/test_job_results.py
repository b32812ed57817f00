"""Results of a job come from a bucket to which others may write."""

from pathlib import Path

import pytest
from emulator_helpers import client

from sagehound_launchers.config import Launch
from sagehound_launchers.config.schema import composed
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import RemoteError
from sagehound_launchers.sagemaker.job_results import collect
from sagehound_launchers.sagemaker.requests import Account
from sagehound_launchers.sagemaker.training_plans import Job
from sagemaker_emulator.server import Emulator

TENSORS = "sagehound/jobs/j/debug-output/"


@pytest.fixture
def cfg() -> Launch:
    return composed(["data=demo", "trainer=sagemaker", "debugger=sagemaker"])


def download(emulator: Emulator, cfg: Launch, folder: Path, *keys: str) -> None:
    """Collect a job's results, with tensors of these names."""
    s3 = client(emulator, "s3")
    s3.create_bucket(Bucket="kennel", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    for key in keys:
        s3.put_object(Bucket="kennel", Key=f"{TENSORS}{key}", Body=b"" if key.endswith("/") else b"tensors")
    account = Account("us-west-2", "123456789012", "role", "kennel", "image")
    cloud = Cloud("us-west-2", emulator.url, False, lambda service: client(emulator, service), account)
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    collect(cloud, Job("j", cfg, {}, folder), {"TrainingJobStatus": "Completed"})


@pytest.mark.parametrize("key", ["../../../../evil.py", "a/../../../../evil.py", "{tmp}/evil.py"])
def test_tensors_are_written_into_the_runs_folder_only(
    emulator: Emulator, cfg: Launch, tmp_path: Path, key: str
) -> None:
    with pytest.raises(RemoteError, match=r"evil\.py leads out of"):
        download(emulator, cfg, tmp_path / "outputs/run", key.format(tmp=tmp_path))
    assert not list(tmp_path.rglob("evil.py"))


def test_markers_of_folders_are_no_tensors(emulator: Emulator, cfg: Launch, tmp_path: Path) -> None:
    download(emulator, cfg, tmp_path / "run", "", "events/", "events/0.tfevents", "a..b")
    tensors = tmp_path / "run/debugger/tensors"
    assert sorted(str(p.relative_to(tensors)) for p in tensors.rglob("*") if p.is_file()) == [
        "a..b",
        "events/0.tfevents",
    ]
