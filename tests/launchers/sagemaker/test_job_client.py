"""What is missing of an AWS account is said before anything is sent to it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulator_helpers import client
from helpers import Command, small

from sagehound_launchers.config.aws_keys import Aws
from sagehound_launchers.sagemaker.account import open_session
from sagehound_launchers.sagemaker.aws_errors import failure
from sagemaker_emulator.server import Emulator

ROLE = "aws.role=SageMakerRole"


@pytest.mark.parametrize(
    ("unset", "arguments", "message"),
    [
        (["AWS_DEFAULT_REGION"], [ROLE], "no AWS region: give aws.region=us-east-1"),
        (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], [ROLE], "no AWS credentials: aws configure"),
        ([], [], "no execution role: give aws.role=NAME"),
        ([], ["aws.role=Nobody"], "aws.role=Nobody: the account has no such role"),
        ([], [ROLE, "aws.bucket=never-made"], "aws.bucket=never-made: there is no such bucket: aws s3 mb"),
        ([], [ROLE], "the account has no image sagehound:latest: python launch.py image=ecr builds and pushes it"),
        ([], ["aws.tags.team=hounds"], "aws.tags.team: no such key yet; +aws.tags.team=... adds it"),
        (
            [],
            [ROLE, "data.s3=s3://nobodys/dogs", "aws.image=x"],
            "looking at data.s3=s3://nobodys/dogs: there is no such bucket",
        ),
        ([], ["aws.profile=nobody"], "aws.profile=nobody: The config profile (nobody) could not be found"),
        (
            [],
            ["aws.kms_key=alias/a", "aws.instance_type=ml.m5.xlarge"],
            "aws.kms_key=alias/a is an alias, and the disks",
        ),
        ([], ["aws.instance_type=ml.g4dn.huge"], "trains on no such instance; choose from ml.g4dn."),
        ([], ["aws.instance_type=ml.p3.2xlarge"], "has no kernels for its GPU, a V100 (7.0): choose ml.g4dn.xlarge"),
        (
            [],
            [ROLE, "aws.image=x", "dry_run=true", f"+aws.environment.HUB_TOKEN=hf_{'a' * 34}"],
            "HUB_TOKEN: its value looks like a Hugging Face token, and everybody in the account can read a job's",
        ),
    ],
)
@pytest.mark.usefixtures("account")
def test_what_is_missing_is_one_line(
    launch: Command,
    photos: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    emulator: Emulator,
    unset: list[str],
    arguments: list[str],
    message: str,
) -> None:
    for name in unset:
        monkeypatch.delenv(name)
    done = launch(*small(photos, weights), "trainer=sagemaker", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "epoch" not in done.stdout
    names = client(emulator, "sagemaker").list_training_jobs()["TrainingJobSummaries"]
    assert names == []


@pytest.mark.usefixtures("account")
def test_credentials_that_have_expired(
    launch: Command, photos: Path, weights: Path, control: Callable[..., Any]
) -> None:
    control("faults", [{"operation": "*", "kind": "expired_token", "times": 50}])
    done = launch(*small(photos, weights), "trainer=sagemaker", ROLE)
    assert done.returncode == 2
    assert "the credentials have expired: renew them (aws sso login)" in done.stderr


@pytest.mark.slow
def test_an_image_is_built_and_pushed_by_docker(
    launch: Command, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path))
    without = launch("image=ecr", "aws=emulator")
    assert without.returncode == 2
    assert "image=ecr needs the docker client, which is not on the PATH" in without.stderr
    said = tmp_path / "docker.log"  # no docker engine is to be had here; a stand-in writes down what it was told
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\necho "$@" >> {said}\nif [ "$1" = login ]; then cat >> {said}; echo >> {said}; fi\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}{os.pathsep}{path}")
    done = launch("image=ecr", "aws=emulator", "image.tag=v1")
    assert done.returncode == 0, done.stderr
    login, password, build, push = said.read_text().splitlines()
    assert login.startswith("login --username AWS --password-stdin 123456789012.dkr.ecr.us-west-2.amazonaws.com")
    assert password, "given on standard input, where no other process reads it"
    assert build.startswith(
        "build --platform linux/amd64 --tag 123456789012.dkr.ecr.us-west-2.amazonaws.com/sagehound:v1"
    )
    assert push == "push 123456789012.dkr.ecr.us-west-2.amazonaws.com/sagehound:v1"
    assert "epoch" not in done.stdout, "nothing is trained"
    docker.write_text("#!/bin/sh\nexit 7\n")
    failed = launch("image=ecr", "aws=emulator")
    assert (failed.returncode, "docker login failed with exit code 7" in failed.stderr) == (1, True)


def test_the_emulator_has_the_region_that_is_asked_for(emulator: Emulator) -> None:
    found = open_session(Aws(name="emulator", folder=str(emulator.folder)))
    assert (found.url, found.region) == (emulator.url, "us-west-2")
    made = open_session(Aws(name="emulator", folder=str(emulator.folder), region="eu-west-1"))
    group = made.client("sagemaker").create_model_package_group(ModelPackageGroupName="dogs")
    assert group["ModelPackageGroupArn"].startswith("arn:aws:sagemaker:eu-west-1:")


@pytest.mark.slow
@pytest.mark.usefixtures("account")
def test_a_dry_run_needs_no_bucket_and_makes_none(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, emulator: Emulator
) -> None:
    given = [*small(photos, weights), "trainer=sagemaker", ROLE, "aws.image=x", "dry_run=true", "hydra.run.dir=dry"]
    done = launch(*given, "aws.bucket=never-made")
    assert done.returncode == 0, done.stderr
    assert '"s3://never-made/' in (tmp_path / "dry/request.json").read_text()
    assert client(emulator, "s3").list_buckets()["Buckets"] == []


def test_the_reason_of_a_failure_is_one_line_that_begins_with_the_programs() -> None:
    reason = "AlgorithmError: /photos: no usable\nphoto is left, exit code: 3"
    assert failure(reason) == "/photos: no usable photo is left, exit code: 3 (AlgorithmError)"
    assert "exit code: 137; it was killed, probably out of memory" in failure("AlgorithmError: , exit code: 137")
