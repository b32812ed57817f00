"""SageMaker Pipelines in the emulator: steps are real jobs, and an execution survives the emulator's end."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulator_helpers import BUCKET, IMAGE, ROLE, TRAIN, Client, client, content, job, until
from hosting_helpers import SERVE, TINY

from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings

PREPARE = (
    "import os, pathlib; p = pathlib.Path(os.environ['SAGEMAKER_EMULATOR_OPT_ML'], 'processing'); "
    "(p / 'train/a').write_text('photo'); (p / 'report/r.json').write_text('{\"scores\": [{\"top1\": 0.9}]}')"
)
LEARN = "(ml / 'model/name').write_text('m'); assert list((ml / 'input/data/train').iterdir()); print('acc=0.8')"


def get(path: str) -> dict[str, str]:
    return {"Get": path}


def start_of(seconds: float) -> str:
    return f"time.sleep({seconds}); "


def definition(pause: float = 0.0, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON's
    """Process, train, tune, then a condition: register, make a model and transform, or fail."""
    base = f"s3://{BUCKET}"
    outputs = [
        {
            "OutputName": n,
            "S3Output": {"S3Uri": f"{base}/{n}", "LocalPath": f"/opt/ml/processing/{n}", "S3UploadMode": "EndOfJob"},
        }
        for n in ("train", "report")
    ]
    prepare = {
        "ProcessingResources": {
            "ClusterConfig": {"InstanceType": get("Parameters.Instance"), "InstanceCount": 1, "VolumeSizeInGB": 1}
        },
        "AppSpecification": {
            "ImageUri": TINY,
            "ContainerEntrypoint": [sys.executable, "-c", "import os; exec(os.environ['CODE'])"],
        },
        "Environment": {"CODE": f"__import__('time').sleep({pause}); {PREPARE}"},
        "RoleArn": ROLE,
        "ProcessingOutputConfig": {"Outputs": outputs},
    }
    train = job(
        "", start_of(pause) + LEARN, algorithm={"MetricDefinitions": [{"Name": "acc", "Regex": "acc=([0-9.]+)"}]}
    )
    del train["TrainingJobName"]
    train["HyperParameters"]["epochs"] = get("Parameters.Epochs")
    photos = get("Steps.Prepare.ProcessingOutputConfig.Outputs['train'].S3Output.S3Uri")
    train["InputDataConfig"] = [
        {"ChannelName": "train", "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": photos}}}
    ]
    search = {
        "HyperParameterTuningJobConfig": {
            "Strategy": "Random",
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "acc"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 2, "MaxParallelTrainingJobs": 2},
            "ParameterRanges": {"ContinuousParameterRanges": [{"Name": "lr", "MinValue": "0.1", "MaxValue": "1"}]},
        },
        "TrainingJobDefinition": {k: v for k, v in train.items() if k != "HyperParameters"}
        | {"StaticHyperParameters": train["HyperParameters"]},
    }
    best = {
        "Std:Join": {
            "On": "/",
            "Values": [
                f"{base}/out",
                get("Steps.Search.TrainingJobSummaries[0].TrainingJobName"),
                "output/model.tar.gz",
            ],
        }
    }
    container = {"Image": TINY, "ModelDataUrl": best}
    register = {
        "ModelPackageGroupName": "dogs",
        "InferenceSpecification": {
            "Containers": [container],
            "SupportedContentTypes": ["image/jpeg"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        "ModelApprovalStatus": "Approved",
    }
    transform = {
        "ModelName": get("Steps.Make.ModelName"),
        "TransformInput": {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": photos}}},
        "TransformOutput": {"S3OutputPath": f"{base}/predictions"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
    }
    top1 = {"Std:JsonGet": {"PropertyFile": get("Steps.Prepare.PropertyFiles.Report"), "Path": "scores[0].top1"}}
    conditions = [
        {"Type": "GreaterThanOrEqualTo", "LeftValue": top1, "RightValue": get("Parameters.Least")},
        {"Type": "GreaterThan", "LeftValue": get("Steps.Train.FinalMetricDataList['acc'].Value"), "RightValue": 0.5},
    ]
    good = [
        {"Name": "Register", "Type": "RegisterModel", "Arguments": register},
        {"Name": "Make", "Type": "Model", "Arguments": {"PrimaryContainer": container, "ExecutionRoleArn": ROLE}},
        {"Name": "Transform", "Type": "Transform", "Arguments": transform},
    ]
    bad = [
        {
            "Name": "Give-up",
            "Type": "Fail",
            "Arguments": {
                "ErrorMessage": {"Std:Join": {"On": " ", "Values": ["top-1 is below", get("Parameters.Least")]}}
            },
        }
    ]
    return {
        "Version": "2020-12-01",
        "Parameters": [
            {
                "Name": "Instance",
                "Type": "String",
                "DefaultValue": "ml.m5.large",
                "EnumValues": ["ml.m5.large", "ml.m5.xlarge"],
            },
            {"Name": "Epochs", "Type": "Integer", "DefaultValue": 3},
            {"Name": "Least", "Type": "Float", "DefaultValue": 0.7},
        ],
        "Steps": [
            {
                "Name": "Prepare",
                "Type": "Processing",
                "Arguments": prepare,
                "PropertyFiles": [{"PropertyFileName": "Report", "OutputName": "report", "FilePath": "r.json"}],
                **more,
            },
            {"Name": "Train", "Type": "Training", "Arguments": train, **more},
            {"Name": "Search", "Type": "Tuning", "Arguments": search},
            {
                "Name": "Good",
                "Type": "Condition",
                "DependsOn": ["Search"],
                "Arguments": {"Conditions": conditions, "IfSteps": good, "ElseSteps": bad},
            },
        ],
    }


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    settings = Settings(images={"/sagehound:": {"train": TRAIN}, "/tiny:": {"serve": SERVE}}, grace=2.0, sync=0.1)
    with Emulator(tmp_path / "e", settings=settings) as running:
        client(running, "s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
        )
        yield running


def create(sm: Client, name: str, content: dict[str, Any]) -> str:
    token = uuid.uuid4().hex
    sm.create_pipeline(
        PipelineName=name, PipelineDefinition=json.dumps(content), RoleArn=ROLE, ClientRequestToken=token
    )
    return name


def begin(sm: Client, name: str, **parameters: str) -> str:
    given = [{"Name": k, "Value": v} for k, v in parameters.items()]
    return str(sm.start_pipeline_execution(PipelineName=name, PipelineParameters=given)["PipelineExecutionArn"])


def finished(sm: Client, arn: str, seconds: float = 60) -> dict[str, Any]:
    return until(
        lambda: sm.describe_pipeline_execution(PipelineExecutionArn=arn),
        lambda d: d["PipelineExecutionStatus"] not in ("Executing", "Stopping"),
        seconds,
    )


def steps(sm: Client, arn: str) -> dict[str, dict[str, Any]]:
    listed = sm.list_pipeline_execution_steps(PipelineExecutionArn=arn, SortOrder="Ascending", MaxResults=100)
    return {s["StepName"]: s for s in listed["PipelineExecutionSteps"]}


def test_a_name_that_exists_is_refused_in_the_words_that_the_sdks_match(emulator: Emulator) -> None:
    """Pipeline.upsert() of SDK 2 updates the pipeline only then."""
    sm = client(emulator, "sagemaker")
    content = {"Version": "2020-12-01", "Steps": [{"Name": "End", "Type": "Fail", "Arguments": {"ErrorMessage": "x"}}]}
    create(sm, "dogs", content)
    words = r"ValidationException.* must be unique within an AWS account and region\..* already exists"
    with pytest.raises(ClientError, match=words):
        create(sm, "dogs", content)


def test_an_image_that_is_not_known_is_named_before_the_first_step_runs(emulator: Emulator) -> None:
    """SDK 2 adds a training step with the image of scikit-learn to a model that is registered with its code."""
    sm = client(emulator, "sagemaker")
    content = definition()
    known = {"Name": "Image", "Type": "String", "DefaultValue": IMAGE}
    content["Parameters"].append(known)
    good = content["Steps"][-1]["Arguments"]["IfSteps"]
    repack = {k: v for k, v in job("x", "").items() if k != "TrainingJobName"}
    repack["AlgorithmSpecification"] = {"TrainingImage": get("Parameters.Image"), "TrainingInputMode": "File"}
    good.append({"Name": "Repack", "Type": "Training", "Arguments": repack})
    create(sm, "dogs", content)
    scikit = "246618743249.dkr.ecr.us-west-2.amazonaws.com/sagemaker-scikit-learn:1.2-1-cpu-py3"
    with pytest.raises(
        ClientError, match=rf"Step Repack: .* no command to train with the image {scikit}: start it with"
    ):
        begin(sm, "dogs", Image=scikit)
    assert sm.list_pipeline_executions(PipelineName="dogs")["PipelineExecutionSummaries"] == []
    begin(sm, "dogs")


def test_steps_run_in_order_and_hand_their_results_on(emulator: Emulator) -> None:
    sm, s3 = client(emulator, "sagemaker"), client(emulator, "s3")
    create(sm, "dogs", definition())
    arn = begin(sm, "dogs", Epochs="7")
    described = finished(sm, arn)
    assert described["PipelineExecutionStatus"] == "Succeeded", described["FailureReason"]
    done = steps(sm, arn)
    assert set(done) == {"Prepare", "Train", "Search", "Good", "Register", "Make", "Transform"}
    assert {s["StepStatus"] for s in done.values()} == {"Succeeded"}
    assert done["Good"]["Metadata"] == {"Condition": {"Outcome": "True"}}
    name = done["Train"]["Metadata"]["TrainingJob"]["Arn"].rpartition("/")[2]
    number = arn.rpartition("/")[2]
    assert name.startswith(f"pipelines-{number}-Train-")
    assert sm.describe_training_job(TrainingJobName=name)["HyperParameters"]["epochs"] == "7"
    assert json.loads(content(s3, "predictions/a.out"))["model"] == "m"
    (package,) = sm.list_model_packages(ModelPackageGroupName="dogs")["ModelPackageSummaryList"]
    assert package["ModelPackageArn"] == done["Register"]["Metadata"]["RegisterModel"]["Arn"]
    listed = sm.list_pipeline_parameters_for_execution(PipelineExecutionArn=arn)["PipelineParameters"]
    assert {p["Name"]: p["Value"] for p in listed} == {"Instance": "ml.m5.large", "Epochs": "7", "Least": "0.7"}
    assert sm.list_pipelines()["PipelineSummaries"][0]["PipelineName"] == "dogs"
    (execution,) = sm.list_pipeline_executions(PipelineName="dogs")["PipelineExecutionSummaries"]
    assert execution["PipelineExecutionStatus"] == "Succeeded"
    sm.delete_pipeline(PipelineName="dogs", ClientRequestToken=uuid.uuid4().hex)
    with pytest.raises(ClientError, match="does not exist"):
        sm.describe_pipeline(PipelineName="dogs")


@pytest.mark.slow
def test_a_branch_that_fails_a_cache_and_a_retry(emulator: Emulator) -> None:
    sm = client(emulator, "sagemaker")
    create(sm, "dogs", definition(CacheConfig={"Enabled": True, "ExpireAfter": "P1D"}))
    first = begin(sm, "dogs", Least="0.95")
    described = finished(sm, first)
    assert described["PipelineExecutionStatus"] == "Failed"
    assert "Give-up: top-1 is below 0.95" in described["FailureReason"]
    done = steps(sm, first)
    assert "Register" not in done, "the branch that was not taken"
    assert done["Give-up"]["Metadata"]["Fail"]["ErrorMessage"] == "top-1 is below 0.95"
    second = begin(sm, "dogs", Least="0.5")
    finished(sm, second)
    cached = steps(sm, second)
    for name in ("Prepare", "Train"):
        assert cached[name]["CacheHitResult"]["SourcePipelineExecutionArn"] == first
        assert cached[name]["Metadata"] == done[name]["Metadata"]
    assert "CacheHitResult" not in cached["Search"], "it has no CacheConfig"
    sm.retry_pipeline_execution(PipelineExecutionArn=first, ClientRequestToken=uuid.uuid4().hex)
    assert finished(sm, first)["PipelineExecutionStatus"] == "Failed", "the same parameters"
    assert steps(sm, first)["Search"]["Metadata"] == done["Search"]["Metadata"], "what succeeded is not run again"


def test_an_execution_can_be_stopped_with_its_jobs(emulator: Emulator) -> None:
    sm = client(emulator, "sagemaker")
    create(sm, "slow", definition(pause=60))
    arn = begin(sm, "slow")
    until(lambda: steps(sm, arn).get("Prepare", {}).get("StepStatus"), lambda s: s == "Executing")
    with pytest.raises(ClientError, match="has an execution that runs"):
        sm.delete_pipeline(PipelineName="slow", ClientRequestToken=uuid.uuid4().hex)
    sm.stop_pipeline_execution(PipelineExecutionArn=arn, ClientRequestToken=uuid.uuid4().hex)
    assert finished(sm, arn)["PipelineExecutionStatus"] == "Stopped"
    (prepare,) = steps(sm, arn).values()
    assert prepare["StepStatus"] == "Stopped"
    (stopped,) = sm.list_processing_jobs()["ProcessingJobSummaries"]
    assert stopped["ProcessingJobStatus"] == "Stopped"


def changed(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON's
    step = {"Name": "A", "Type": "Fail", "Arguments": {"ErrorMessage": "x"}}
    return {"Version": "2020-12-01", "Steps": [step | more]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(Type="Lambda"), "Step A: the emulator does not execute steps of type Lambda; it has Training, Tuning"),
        (changed(DependsOn=["B"]), "Step A refers to B, which is no step of the pipeline"),
        (changed(DependsOn=["A"]), "Steps wait for each other: A -> A"),
        (changed(Arguments={"ErrorMessage": get("Parameters.X")}), "refers to the parameter X"),
        (changed() | {"Version": "2019"}, "Version must be 2020-12-01"),
        ({**changed(), "Steps": changed()["Steps"] * 2}, "Step name A is used twice"),
        (changed() | {"Steps": ["A"]}, "Unable to parse pipeline definition: a part has another type"),
        (changed() | {"Parameters": [{"Name": "X"}]}, "Unable to parse pipeline definition: 'Type' is missing"),
        (changed(Type="Condition", Arguments=None), "Unable to parse pipeline definition: a part has another type"),
    ],
)
def test_definitions_are_checked_before_anything_runs(
    emulator: Emulator, content: dict[str, Any], message: str
) -> None:
    sm = client(emulator, "sagemaker")
    with pytest.raises(ClientError, match=message):
        create(sm, "wrong", content)
    assert sm.list_pipelines()["PipelineSummaries"] == []


def test_parameters_are_checked_and_the_same_token_starts_once(emulator: Emulator) -> None:
    sm = client(emulator, "sagemaker")
    create(sm, "dogs", definition(pause=60))
    for given, message in (
        ({"Epochs": "many"}, "not of type Integer"),
        ({"Instance": "ml.p3"}, "not one of"),
        ({"X": "1"}, "Unknown"),
    ):
        with pytest.raises(ClientError, match=message):
            begin(sm, "dogs", **given)
    token = uuid.uuid4().hex
    arns = {
        sm.start_pipeline_execution(PipelineName="dogs", ClientRequestToken=token)["PipelineExecutionArn"]
        for _ in range(3)
    }
    assert len(arns) == 1


@pytest.mark.slow
def test_an_execution_that_is_killed_ten_times_ends_without_a_duplicate(tmp_path: Path) -> None:
    image = tmp_path / "image/bin"
    image.mkdir(parents=True)
    for verb, command in (("train", TRAIN), ("serve", SERVE)):
        (image / verb).write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n")
        (image / verb).chmod(0o755)
    arguments = ["--folder", str(tmp_path / "e"), "--grace", "2"]
    for name in (IMAGE, TINY):
        arguments += ["--image", f"{name.rpartition('/')[2]}={tmp_path / 'image'}"]

    def start() -> tuple[subprocess.Popen[bytes], Client]:
        process = subprocess.Popen([sys.executable, "-m", "sagemaker_emulator", *arguments], stdout=subprocess.DEVNULL)
        note = tmp_path / "e/address.json"
        until(lambda: note.exists() and json.loads(note.read_text())["pid"] == process.pid, bool)

        class Address:
            url = json.loads(note.read_text())["url"]

        return process, Address

    process, address = start()
    sm = client(address, "sagemaker")
    client(address, "s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    create(sm, "dogs", definition(pause=0.3))
    arn = begin(sm, "dogs")
    for kill in range(10):
        time.sleep(0.3 + 0.2 * kill)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process, address = start()
    sm = client(address, "sagemaker")
    described = finished(sm, arn, 120)
    done = steps(sm, arn)
    every: dict[str, Any] = {"MaxResults": 100}
    jobs = [
        *sm.list_training_jobs(NameContains="pipelines-", **every)["TrainingJobSummaries"],
        *sm.list_processing_jobs(**every)["ProcessingJobSummaries"],
        *sm.list_transform_jobs(**every)["TransformJobSummaries"],
        *sm.list_hyper_parameter_tuning_jobs(**every)["HyperParameterTuningJobSummaries"],
    ]
    completed = [v for summary in jobs for k, v in summary.items() if k.endswith("JobStatus")].count("Completed")
    packages, models = sm.list_model_packages(ModelPackageGroupName="dogs"), sm.list_models()
    process.terminate()
    process.wait()
    assert described["PipelineExecutionStatus"] == "Succeeded", described
    assert {s["StepStatus"] for s in done.values()} == {"Succeeded"}
    assert completed == 4, "one job for each of the steps that run one"
    assert len(packages["ModelPackageSummaryList"]) == len(models["Models"]) == 1
