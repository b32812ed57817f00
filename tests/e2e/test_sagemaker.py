"""SageMaker end to end on this machine: train with the debugger, serve by AWS's client, and probe."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from helpers import Command, small

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-west-2"}


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[str]:
    """Start the emulator with the state of the previous commands; returns its address."""
    command = [sys.executable, "-m", "sagemaker_emulator", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    yield json.loads((tmp_path / ".emulator/address.json").read_text())["url"]
    process.terminate()
    assert process.wait(30) == 0


@pytest.mark.slow
def test_sagemaker_end_to_end(
    launch: Command,
    photos: Path,
    weights: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = small(photos, weights)
    remote = launch(
        *given, "trainer=sagemaker", "aws=emulator", "debugger=sagemaker", "artifact=true", "hydra.run.dir=remote",
    )  # fmt: skip
    assert remote.returncode == 0, remote.stderr + remote.stdout
    there = json.loads((tmp_path / "remote/metrics.json").read_text())
    from smdebug.trials import create_trial

    trial = create_trial(str(tmp_path / "remote/debugger/tensors"))
    assert trial.tensor_names(collection="losses")
    assert trial.tensor_names(collection="gradients")
    name = trial.tensor_names(collection="losses")[0]
    assert all(trial.tensor(name).value(step).size == 1 for step in trial.tensor(name).steps())

    url = request.getfixturevalue("emulator")
    sagemaker = boto3.client("sagemaker", endpoint_url=url, **KEYS)
    job = json.loads((tmp_path / "remote/job.json").read_text())
    container = {
        "Image": job["request"]["AlgorithmSpecification"]["TrainingImage"],
        "ModelDataUrl": job["ModelArtifacts"]["S3ModelArtifacts"],
    }
    role = job["request"]["RoleArn"]
    sagemaker.create_model(ModelName="dogs", PrimaryContainer=container, ExecutionRoleArn=role)
    variant = {"VariantName": "all", "ModelName": "dogs", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName="dogs", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="dogs", EndpointConfigName="dogs")
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="dogs", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    for key, value in KEYS.items():
        monkeypatch.setenv(key.upper().replace("REGION_NAME", "AWS_DEFAULT_REGION"), value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    probed = launch("probe=sagemaker", "endpoint=dogs", "n=all", *given[:2], "hydra.run.dir=probe")
    assert probed.returncode == 0, probed.stderr
    probe = json.loads((tmp_path / "probe/probe.json").read_text())
    assert probe["top1"] == pytest.approx(there["test"]["top1"], abs=0.02), "the endpoint serves the trained model"
