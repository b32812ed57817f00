"""One command for search, training, registry, batch predictions and an endpoint; killed anywhere, it finishes."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emulator_helpers import client
from helpers import Command, small_all

from sagehound.errors import ConfigError
from sagehound_launchers.sagemaker import permissions
from sagehound_launchers.workflow import inputs, plan
from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings

STAGES = ["registry=sagemaker", "registry.group=dogs", "transform=sagemaker", "bias=local", "deploy=sagemaker"]
SEARCH = ["hpo=sagemaker", "hpo.max_jobs=2", "hpo.max_parallel_jobs=2", "optimizer.lr=interval(0.01,0.1)"]


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    """SageMaker, which lives on when a command is killed."""
    with Emulator(tmp_path / ".emulator", settings=Settings(variables=("SAGEHOUND_CACHE",))) as running:
        yield running


def command(photos: Path, weights: Path) -> list[str]:
    given = [*small_all(photos, weights), "artifact=true", "trainer=sagemaker", "aws=emulator", "hydra.run.dir=all"]
    return [*given, *SEARCH, *STAGES, "debugger=local"]


def there(emulator: Emulator) -> dict[str, list[str]]:
    """What the account has: jobs by their states, packages, models, configurations, endpoints."""
    sm = client(emulator, "sagemaker")
    tuning = sm.list_hyper_parameter_tuning_jobs()["HyperParameterTuningJobSummaries"]
    packages = sm.list_model_packages(ModelPackageGroupName="dogs")["ModelPackageSummaryList"]
    return {
        "tuning": [j["HyperParameterTuningJobStatus"] for j in tuning],
        "training": [j["TrainingJobStatus"] for j in sm.list_training_jobs()["TrainingJobSummaries"]],
        "transform": [j["TransformJobStatus"] for j in sm.list_transform_jobs()["TransformJobSummaries"]],
        "packages": [str(p["ModelPackageVersion"]) for p in packages],
        "models": ["model" for _ in sm.list_models()["Models"]],
        "configs": ["config" for _ in sm.list_endpoint_configs()["EndpointConfigs"]],
        "endpoints": [e["EndpointStatus"] for e in sm.list_endpoints()["Endpoints"]],
    }


ONCE = {
    "tuning": ["Completed"],
    "training": ["Completed"] * 3,
    "transform": ["Completed"],
    "packages": ["1"],
    "models": ["model"],
    "configs": ["config"],
    "endpoints": ["InService"],
}


def check_results(folder: Path, emulator: Emulator) -> None:
    assert there(emulator) == ONCE
    (best,), (run,) = ([path.read_text() for path in folder.glob("search-*/best.yaml")], folder.glob("train-*"))
    assert best.splitlines()[-1].startswith("optimizer.lr:")
    assert best.splitlines()[-1].partition(": ")[2].strip("'")[:6] in (run / "overrides.yaml").read_text()
    assert (folder / "transform/predictions_per_class.csv").exists()
    assert (run / "bias.csv").exists()
    assert (run / "debugger/findings.json").exists()
    steps = json.loads((folder / "workflow.json").read_text())["steps"]
    assert [step["name"] for step in steps] == ["search", "train", "registry", "transform", "bias", "deploy"]
    assert {step["state"] for step in steps} == {"done"}


@pytest.mark.slow
def test_one_command_does_all_and_again_nothing(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, emulator: Emulator
) -> None:
    given = command(photos, weights)
    dry = launch(*given, "dry_run=true")
    assert dry.returncode == 0, dry.stderr
    written = {str(p.relative_to(tmp_path / "all/dry_run")) for p in (tmp_path / "all/dry_run").rglob("*request*.json")}
    assert written >= {"search/request.json", "train/request.json", "deploy/deploy_requests.json"}
    done = launch(*given)
    assert done.returncode == 0, done.stderr + done.stdout
    check_results(tmp_path / "all", emulator)
    again = launch(*given)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before") == 5
    check_results(tmp_path / "all", emulator)
    assert "$0.115 an hour" in launch("list", "aws=emulator", "idle_hours=0.001").stdout
    photo = str(next((photos / "test").rglob("*.jpg")))
    asked = subprocess.run(
        [sys.executable, "-m", "sagehound.cli", "predict", "sagehound-all", photo, "--emulator"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    assert launch("delete=all", "aws=emulator").returncode == 0
    left = there(emulator)
    assert (left["endpoints"], left["models"], left["configs"]) == ([], [], [])
    assert "nothing of Sagehound exists or runs" in launch("list", "aws=emulator").stdout
    with urllib.request.urlopen(f"{emulator.url}/_emulator/requests") as response:
        called = {iam_action(operation) for operation in json.load(response)}
    allowed = permissions.actions(["search", "train", "registry", "transform", "deploy", "predict", "list and delete"])
    assert called - allowed == set(), "the policy lacks these"
    assert allowed - called == {*NOT_NEEDED_HERE}, "the policy has more than the code calls"


# what the test's command calls only in other situations, or what AWS checks without a call of its own
NOT_NEEDED_HERE = {
    "iam:PassRole": "checked with each request that names the role",
    "iam:CreateServiceLinkedRole": "deploy.max_instances, by AWS itself",
    "application-autoscaling:RegisterScalableTarget": "deploy.max_instances",
    "application-autoscaling:PutScalingPolicy": "deploy.max_instances",
    "application-autoscaling:DeregisterScalableTarget": "deploy.max_instances",
    "cloudwatch:PutMetricAlarm": "deploy.max_instances, by AWS in the caller's name",
    "cloudwatch:DescribeAlarms": "deploy.max_instances, by AWS in the caller's name",
    "cloudwatch:DeleteAlarms": "deploy.max_instances, by AWS in the caller's name",
    "ecr:DescribeImages": "the emulator has no registry of images",
    "sagemaker:AddTags": "checked with each request that has tags",
    "sagemaker:UpdateEndpoint": "the second deployment of an endpoint",
    "sagemaker:UpdateModelPackage": "approve=NAME@VERSION",
    "sagemaker:InvokeEndpointAsync": "deploy=async",
    "sagemaker:DescribeModelPackage": "a name that has versions already",
    "s3:DeleteObject": "delete=ENDPOINT/MODEL, and photos that are no longer in the folder",
    "sagemaker:StopTrainingJob": "aws.stop_on_interrupt, and delete=all while a job runs",
    "sagemaker:StopHyperParameterTuningJob": "the same",
    "sagemaker:StopProcessingJob": "the same",
    "sagemaker:StopTransformJob": "the same",
    "sagemaker:DescribeProcessingJob": "delete=all while a job runs",
    "logs:FilterLogEvents": "a photo that the job could not predict",
}
_S3 = {  # by the emulator's name of the operation; AWS: "Actions defined by Amazon S3"
    "HeadBucket": "ListBucket",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "HeadObject": "GetObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "DeleteObjects": "DeleteObject",
}


def iam_action(operation: str) -> str:
    service, colon, name = operation.partition(":")
    if not colon:
        return f"sagemaker:{operation}"
    if service == "monitoring":  # as requests to CloudWatch are signed
        return f"cloudwatch:{name}"
    return f"s3:{_S3.get(name, name)}" if service == "s3" else operation


MARKS = [  # lines after whose first appearance the command is killed
    *("step 1 of 6", "sent sagehound/code", "Sending ", "objects sent", "tuning job ", "best trial"),
    *("step 2 of 6", " runs; results", "Training", "epoch ", "artifact: ", "Completed", "s are billed"),
    *("step 3 of 6", "sent sagehound/models", "registered: "),
    *("step 4 of 6", "transform job", "predictions: ", "step 5 of 6", "step 6 of 6", "Creating", "is in service"),
]


@pytest.mark.parametrize(
    "marks",
    [
        pytest.param(MARKS[4::7], marks=pytest.mark.slow, id="some"),
        pytest.param(MARKS, marks=pytest.mark.soak, id="all"),  # four minutes
    ],
)
def test_a_killed_command_finishes_and_nothing_exists_twice(
    photos: Path, weights: Path, tmp_path: Path, emulator: Emulator, marks: list[str]
) -> None:
    given = [sys.executable, "-m", "sagehound.cli", "launch", *command(photos, weights)]
    left, kills = list(marks), 0
    for _ in range(60):
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(given, cwd=tmp_path, text=True, **pipes) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                mark = next((mark for mark in left if mark in line), None)
                if mark:
                    left = left[left.index(mark) + 1 :]
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                    break
            process.wait()
        if not mark:
            assert process.returncode == 0, "".join(lines)
            break
        time.sleep(0.2)
    assert kills >= max(2, len(marks) - 3), f"output that never came: {left}"
    check_results(tmp_path / "all", emulator)


def steps_of(*words: str) -> list[tuple[str, list[str]]]:
    workflow = plan.of(words)
    assert workflow is not None
    return [(step.name, step.overrides) for step in workflow.steps]


def test_each_step_gets_its_own_settings() -> None:
    base = ["data=demo", "seed=3", "trainer=sagemaker", "aws=emulator"]
    steps = dict(
        steps_of(*base, "hpo=optuna", "optimizer.lr=interval(0.1,1)", "deploy=serverless", "deploy.memory_mb=2048")
    )
    assert steps["search"] == ["hpo=optuna", *base, "optimizer.lr=interval(0.1,1)"]
    assert steps["train"] == base
    assert steps["deploy"][:2] == ["deploy=serverless", "deploy.memory_mb=2048"]
    assert steps["deploy"][2].startswith("deploy.endpoint=sagehound-")
    assert "trainer=sagemaker" not in steps["deploy"]


def keys(*words: str) -> dict[str, str]:
    """The key of each step, as a command would find it now."""
    workflow = plan.of(words)
    assert workflow is not None
    for step in workflow.steps:
        step.key = inputs.key(workflow, step, None)
    return {step.name: step.key for step in workflow.steps}


@pytest.mark.slow
def test_a_step_is_done_again_if_an_input_has_changed(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model.tar.gz").write_bytes(b"1")
    (tmp_path / "facets.csv").write_text("file,camera\n")
    photo = next(photos.rglob("*.jpg"))
    given = ["data=folder", f"data.root={photos}", f"model={tmp_path / 'run'}", "transform=sagemaker", "bias=local"]
    given += [f"bias.facets={tmp_path / 'facets.csv'}", "registry=sagemaker", "aws=emulator"]
    first = keys(*given)
    os.utime(photo)
    assert keys(*given) == first, "the same content"
    (tmp_path / "facets.csv").write_text("file,phone\n")
    second = keys(*given)
    assert {name for name in first if first[name] != second[name]} == {"bias"}
    photo.write_bytes(photo.read_bytes() + b" ")
    third = keys(*given)
    assert {name for name in second if second[name] != third[name]} == {"bias", "transform"}
    (tmp_path / "run/model.tar.gz").write_bytes(b"2")
    assert not set(keys(*given).values()) & set(third.values())


@pytest.mark.parametrize(
    "words",
    [
        ["deploy=local", "model=run"],
        ["transform=local", "data=demo"],
        ["deploy=sagemaker", "model=run"],
        ["trainer=sagemaker", "data=demo"],
        ["-m", "hpo=optuna", "optimizer.lr=1,2"],
        ["list"],
    ],
)
def test_a_command_of_one_step_is_no_workflow(words: list[str]) -> None:
    assert plan.of(words) is None


def test_a_mistake_in_the_last_step_is_found_before_the_first(launch: Command, tmp_path: Path) -> None:
    done = launch("trainer=sagemaker", "data=demo", "aws=emulator", "deploy=serverless", "deploy.port=9")
    assert done.returncode == 2
    assert "deploy.port=9 is of deploy=local" in done.stderr
    assert not (tmp_path / "outputs").exists()
    with pytest.raises(ConfigError, match=r"optimizer.lr=1,2: several values are a search"):
        plan.of(["optimizer.lr=1,2", "trainer=sagemaker", "data=demo", "deploy=sagemaker"])
