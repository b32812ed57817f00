"""A job whose name follows from its content: followed by the same command, stopped if the command is to stop it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import urllib3
from emulator_helpers import client, until
from helpers import ROOT

from sagehound.errors import Stopped
from sagehound_launchers.config import Aws
from sagehound_launchers.sagemaker import account, job_client, requests
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.job_client import OneJob
from sagehound_launchers.search.runners import terminable
from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings

IMAGE = "sagemaker-clarify-processing"
WRITE = (
    "import os, pathlib as p; o = p.Path(os.environ['SAGEMAKER_EMULATOR_OPT_ML'], 'processing/output'); "
    "o.mkdir(parents=True, exist_ok=True); (o / 'result').write_text('1')"
)
WAIT = "import time; time.sleep(600)"


@pytest.fixture
def code() -> str:
    """What the container runs."""
    return WRITE


@pytest.fixture
def emulator(tmp_path: Path, code: str) -> Iterator[Emulator]:
    images = {IMAGE: {"process": [sys.executable, "-c", code]}}
    with Emulator(tmp_path / ".emulator", settings=Settings(variables=("SAGEHOUND_CACHE",), images=images)) as running:
        yield running


@pytest.fixture
def aws(emulator: Emulator) -> Aws:
    return Aws(name="emulator", folder=str(emulator.folder), instance_type="ml.m5.large")


@pytest.fixture
def cloud(aws: Aws) -> Cloud:
    return account.connect(aws)


@pytest.fixture
def job(aws: Aws, cloud: Cloud) -> OneJob:
    own = replace(cloud.account, image=f"1.dkr.ecr.us-west-2.amazonaws.com/{IMAGE}:1")

    def request(name: str) -> dict[str, Any]:
        output = requests.ProcessingOutput(f"s3://{own.bucket}/out/{name}", "/opt/ml/processing/output")
        return requests.processing_job(name, aws, own, [], output, "test")

    def is_usable(ended: dict[str, Any]) -> bool:
        return job_client.has_result(cloud, ended, "result")

    return OneJob("processing_job", "hound", request, lambda _: None, is_usable, "/aws/sagemaker/ProcessingJobs")


def names(emulator: Emulator) -> dict[str, str]:
    jobs = client(emulator, "sagemaker").list_processing_jobs()["ProcessingJobSummaries"]
    return {one["ProcessingJobName"]: one["ProcessingJobStatus"] for one in jobs}


@pytest.mark.slow
def test_a_job_is_run_once_while_its_result_exists(emulator: Emulator, aws: Aws, cloud: Cloud, job: OneJob) -> None:
    for _ in range(2):
        assert job_client.run(cloud, aws, job)["ProcessingJobName"] == "hound"
    assert names(emulator) == {"hound": "Completed"}
    client(emulator, "s3").delete_object(Bucket=cloud.account.bucket, Key="out/hound/result")
    for _ in range(2):
        assert job_client.run(cloud, aws, job)["ProcessingJobName"] == "hound-2"
    assert names(emulator) == {"hound": "Completed", "hound-2": "Completed"}


@pytest.mark.slow
@pytest.mark.parametrize("code", ["raise SystemExit(1)"])
def test_a_job_that_failed_is_replaced(emulator: Emulator, aws: Aws, cloud: Cloud, job: OneJob) -> None:
    assert job_client.run(cloud, aws, job)["ProcessingJobStatus"] == "Failed"
    assert job_client.run(cloud, aws, job)["ProcessingJobName"] == "hound-2"


@pytest.mark.slow
def test_a_job_that_another_command_starts_at_the_same_time_is_followed(
    emulator: Emulator, aws: Aws, cloud: Cloud, job: OneJob
) -> None:
    other = replace(
        job, prepare=lambda name: client(emulator, "sagemaker").create_processing_job(**job.request(name)) and None
    )
    assert job_client.run(cloud, aws, other)["ProcessingJobStatus"] == "Completed"
    assert names(emulator) == {"hound": "Completed"}


def test_sigterm_in_a_request_is_not_taken_for_a_broken_connection(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = urllib3.HTTPConnectionPool.urlopen
    signals = [signal.SIGTERM]

    def interrupted(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever botocore gives
        if signals:
            os.kill(os.getpid(), signals.pop())
        return send(*given, **named)

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", interrupted)

    def look() -> bool:
        return bool(cloud.client("sagemaker").list_processing_jobs())

    with pytest.raises(Stopped, match="SIGTERM"), terminable():
        all(job_client.poll_until(cloud, 0.1, look) for _ in range(2))


@pytest.mark.slow
@pytest.mark.parametrize("code", [WAIT])
def test_signals_leave_a_job_or_stop_it(emulator: Emulator, run: Path, tmp_path: Path) -> None:
    given = [sys.executable, str(ROOT / "launch.py"), "bias=sagemaker", f"model={run}", "aws=emulator"]

    def interrupted(signum: int, *more: str) -> tuple[int, str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen([*given, *more], cwd=tmp_path, text=True, **pipes) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if " job sagehound-bias-" in line and "stopped" not in line:
                    process.send_signal(signum)
        return process.returncode, "".join(lines)

    code, text = interrupted(signal.SIGTERM)
    assert code == 143, text
    (name,) = names(emulator)
    assert f"sagehound: stopped by SIGTERM; the job {name} continues; the same command follows it again" in text
    code, text = interrupted(signal.SIGINT, "aws.stop_on_interrupt=true")
    assert code == 130, text
    assert f"following the processing job {name} again" in text
    assert f"stopped by SIGINT; the job {name} is being stopped" in text
    until(lambda: names(emulator), lambda found: found == {name: "Stopped"})
