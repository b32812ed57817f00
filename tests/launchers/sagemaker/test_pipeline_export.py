"""`pipeline=sagemaker`: the definition, and an execution that really trains, checks, registers and predicts."""

import json
from pathlib import Path
from typing import Any

import pytest
from emulator_helpers import client, until
from helpers import Command, small

from sagemaker_emulator.server import Emulator

STEPS = ["registry=sagemaker", "registry.group=dogs", "transform=sagemaker", "transform.split=test", "aws=emulator"]


def ended(emulator: Emulator, name: str) -> dict[str, str]:
    """The status of each step of the newest execution."""
    sm = client(emulator, "sagemaker")

    def newest() -> dict[str, Any]:
        return dict(sm.list_pipeline_executions(PipelineName=name)["PipelineExecutionSummaries"][0])

    execution = until(newest, lambda e: e["PipelineExecutionStatus"] != "Executing", 200)
    steps = sm.list_pipeline_execution_steps(PipelineExecutionArn=execution["PipelineExecutionArn"])
    return {step["StepName"]: step["StepStatus"] for step in steps["PipelineExecutionSteps"]}


@pytest.mark.slow
def test_dry_run_writes_the_definition(launch: Command, photos: Path, weights: Path, tmp_path: Path) -> None:
    given = [*small(photos, weights), "artifact=true", *STEPS, "registry.require=valid.top1>=0.5,valid.loss<9"]
    done = launch("pipeline=sagemaker", *given, "dry_run=true", "hydra.run.dir=out", "seed=7")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "out/pipeline.json").read_text())
    train, check = content["Steps"]
    assert train["Arguments"]["HyperParameters"]["seed"] == "7"
    assert "TrainingJobName" not in train["Arguments"]
    assert "SAGEHOUND_REQUEST" not in train["Arguments"]["Environment"]
    conditions = check["Arguments"]["Conditions"]
    assert [(c["Type"], c["RightValue"]) for c in conditions] == [("GreaterThanOrEqualTo", 0.5), ("LessThan", 9.0)]
    assert [step["Name"] for step in check["Arguments"]["IfSteps"]] == ["Register", "Model", "Predict"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hpo=sagemaker"], "hpo searches and does nothing after it"),
        (["deploy=sagemaker"], "has no step for deploy"),
        (["registry=sagemaker", "registry.require=test.top1>=0.5"], "only, not test.top1"),
        (["transform=sagemaker", "model=run"], "trains its model: drop model=run"),
    ],
)
def test_what_a_pipeline_cannot_do_is_refused(launch: Command, overrides: list[str], message: str) -> None:
    done = launch("pipeline=sagemaker", *overrides, "data=demo", "aws=emulator", "dry_run=true")
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


@pytest.mark.slow
def test_it_trains_registers_and_predicts(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, emulator: Emulator
) -> None:
    given = ["pipeline=sagemaker", *small(photos, weights), "artifact=true", *STEPS, "pipeline.start=true"]
    good = launch(*given, "registry.require=valid.top1>=0")
    assert good.returncode == 0, good.stderr
    assert ended(emulator, "sagehound") == dict.fromkeys(
        ["Train", "Check", "Register", "Model", "Predict"], "Succeeded"
    )
    sm, s3 = client(emulator, "sagemaker"), client(emulator, "s3")
    assert len(sm.list_model_packages(ModelPackageGroupName="dogs")["ModelPackageSummaryList"]) == 1
    bucket = s3.list_buckets()["Buckets"][0]["Name"]
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket, Prefix="sagehound/transform/")["Contents"]]
    assert sum(key.endswith(".jpg.out") for key in keys) == 12, "a response for each test photo"
    bad = launch(*given, "registry.require=valid.top1>1")
    assert bad.returncode == 0, bad.stderr
    assert "updated the pipeline sagehound" in bad.stdout
    steps = ended(emulator, "sagehound")
    assert (steps["Check"], steps["Refuse"]) == ("Succeeded", "Failed")
    assert len(sm.list_model_packages(ModelPackageGroupName="dogs")["ModelPackageSummaryList"]) == 1
