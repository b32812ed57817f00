"""What leads clients to the emulator: a pytest fixture, a context manager, and variables for a shell."""

import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from sagemaker_emulator.client_setup import emulated

TEST = """
import boto3

def test_mine(sagemaker_emulator):
    boto3.client("s3").create_bucket(
        Bucket="mine", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    assert boto3.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []
    arn = boto3.client("sts", endpoint_url="https://sts.us-west-2.amazonaws.com").get_caller_identity()["Arn"]
    assert arn.endswith(":assumed-role/SageMakerRole/emulator")

def test_starts_empty(sagemaker_emulator):
    assert boto3.client("s3").list_buckets()["Buckets"] == []
"""


@pytest.mark.slow
def test_the_fixture_of_pytest(tmp_path: Path) -> None:
    """In a project of the user's own, without any configuration."""
    (tmp_path / "test_mine.py").write_text(TEST)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_context_manager_sets_this_process_up_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with emulated(tmp_path) as emulator:
        assert os.environ["AWS_ENDPOINT_URL"] == emulator.url
        role = boto3.client("iam").get_role(RoleName="SageMakerRole")["Role"]["Arn"]
        allowed = boto3.client("iam").simulate_principal_policy(
            PolicySourceArn=role, ActionNames=["sagemaker:CreateTrainingJob", "s3:GetObject"]
        )["EvaluationResults"]
        assert {(one["EvalActionName"], one["EvalDecision"]) for one in allowed} == {
            ("sagemaker:CreateTrainingJob", "allowed"),
            ("s3:GetObject", "allowed"),
        }
    assert os.environ["AWS_DEFAULT_REGION"] == "eu-central-1"
    assert "AWS_ENDPOINT_URL" not in os.environ


def test_set_up_without_an_emulator_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sagemaker_emulator", "env", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"sagemaker-emulator: no emulator uses {tmp_path}: start `sagemaker-emulator --folder {tmp_path}`\n"
    )


def test_another_sitecustomize_is_still_run(tmp_path: Path) -> None:
    """The set-up has a sitecustomize of its own, as Debian's Python and coverage have."""
    import sagemaker_emulator.sdk_setup as setup

    (tmp_path / "sitecustomize.py").write_text("print('the other one')")
    path = os.pathsep.join([str(Path(setup.__file__).parent), str(tmp_path)])
    code = "import sys; print('botocore' in sys.modules, any('sdk_setup' in p for p in sys.path))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["the other one", "False False"], done.stderr
