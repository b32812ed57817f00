"""Jobs of a few lines of Python, clients, and looks at what an emulator holds."""

import io
import json
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import boto3
import psutil
import urllib3
from botocore.config import Config

from sagemaker_emulator.processes import namespaces
from sagemaker_emulator.server import Emulator

Client: TypeAlias = Any  # boto3 ships no types
T = TypeVar("T")

ROLE = "arn:aws:iam::123456789012:role/SageMakerRole"
BUCKET = "photos"
IMAGE = "123456789012.dkr.ecr.us-west-2.amazonaws.com/sagehound:1"
TRAIN = [  # what the image runs: the hyperparameter `code`
    sys.executable,
    "-u",
    "-c",
    "import json, os, signal, sys, time\n"
    "from pathlib import Path\n"
    "ml = Path(os.environ['SAGEMAKER_EMULATOR_OPT_ML'])\n"
    "hyperparameters = json.loads((ml / 'input/config/hyperparameters.json').read_text())\n"
    "exec(hyperparameters['code'])",
]
# names of a job's instances: AWS's where Linux allows namespaces
HOSTS = ("127.0.0.1", "127.0.0.2") if namespaces.refusal() else ("algo-1", "algo-2")
ENDED = ("Completed", "Failed", "Stopped")


def client(emulator: Emulator, service: str, **config: object) -> Client:
    return boto3.client(
        service,
        region_name="us-west-2",
        endpoint_url=emulator.url,
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(**({"retries": {"total_max_attempts": 1}} | config)),
    )


def job(name: str, code: str, **more: Client) -> dict[str, Any]:
    """A request for a job that runs some Python; ``ml`` is its /opt/ml."""
    return {
        "TrainingJobName": name,
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"} | more.pop("algorithm", {}),
        "HyperParameters": {"code": code} | more.pop("hyperparameters", {}),
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        **more,
    }


def channel(name: str, uri: str, **source: object) -> dict[str, Any]:
    return {
        "ChannelName": name,
        "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri} | source},
    }


def ended(sm: Client, name: str) -> dict[str, Any]:
    """The job's description once it has ended."""
    return until(lambda: sm.describe_training_job(TrainingJobName=name), lambda d: d["TrainingJobStatus"] in ENDED)


def until(ask: Callable[[], T], fits: Callable[[T], bool], seconds: float = 120) -> T:
    """What ``ask`` returns, once it fits."""
    end = time.monotonic() + seconds
    while not fits(found := ask()):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def archive(files: dict[str, str]) -> bytes:
    """A tar.gz of files by name."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return content.getvalue()


def members(archive: bytes) -> dict[str, bytes]:
    """The files of a tar.gz by name."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}  # type: ignore[union-attr]


def processes(marker: str) -> list[int]:
    """The processes that have a text in their environment, also those in other namespaces."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and marker in process.environ().values():
                found.append(process.pid)
    return found


def log_of(emulator: Emulator, name: str, group: str = "/aws/sagemaker/TrainingJobs") -> list[str]:
    logs = client(emulator, "logs")
    try:
        streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")["logStreams"]
    except logs.exceptions.ResourceNotFoundException:
        return []
    events = [
        event
        for stream in sorted(s["logStreamName"] for s in streams)
        for event in logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True)["events"]
    ]
    return [event["message"] for event in events]


def control(emulator: Emulator, what: str, content: object = None) -> Client:
    method = "GET" if content is None else "POST"
    answer = urllib3.request(method, f"{emulator.url}/_emulator/{what}", json=content)
    assert answer.status == 200, answer.data
    return json.loads(answer.data)


def content(s3: Client, key: str) -> bytes:
    body: bytes = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return body


def keys(s3: Client, prefix: str) -> list[str]:
    return [o["Key"] for o in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]
