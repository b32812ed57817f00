"""Odd pipelines: a step that cannot be executed fails alone; selective executions; filters of lists."""

import json
import time
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulator_helpers import IMAGE, ROLE, Client, until

from sagemaker_emulator.server import Emulator

ENDED = ("Succeeded", "Failed", "Stopped")


def process(name: str, *command: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON's
    """A step that runs a command."""
    cluster = {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1}
    arguments = {
        "RoleArn": ROLE,
        "AppSpecification": {"ImageUri": IMAGE, "ContainerEntrypoint": list(command)},
        "ProcessingResources": {"ClusterConfig": cluster},
    }
    return {"Name": name, "Type": "Processing", "Arguments": arguments, **more}


def condition(**members: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON's
    return {"Name": "Odd", "Type": "Condition", "Arguments": {"Conditions": [members]}}


def equals(left: object) -> dict[str, Any]:
    return condition(Type="Equals", LeftValue=left, RightValue=1)


def create(sm: Client, *steps: dict[str, Any], name: str = "p") -> None:
    definition = json.dumps({"Version": "2020-12-01", "Steps": steps})
    sm.create_pipeline(
        PipelineName=name, PipelineDefinition=definition, RoleArn=ROLE, ClientRequestToken=uuid.uuid4().hex
    )


def start(sm: Client, source: str = "", *selected: str) -> str:
    """Start an execution, or a selective one."""
    more: dict[str, Any] = {}
    if source:
        names = [{"StepName": name} for name in selected]
        more["SelectiveExecutionConfig"] = {"SourcePipelineExecutionArn": source, "SelectedSteps": names}
    return str(sm.start_pipeline_execution(PipelineName="p", **more)["PipelineExecutionArn"])


def end(sm: Client, arn: str) -> dict[str, Any]:
    return until(
        lambda: sm.describe_pipeline_execution(PipelineExecutionArn=arn),
        lambda d: d["PipelineExecutionStatus"] in ENDED,
    )


def steps(sm: Client, arn: str) -> dict[str, dict[str, Any]]:
    listed = sm.list_pipeline_execution_steps(PipelineExecutionArn=arn)["PipelineExecutionSteps"]
    return {step["StepName"]: step for step in listed}


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (condition(Type="Equals"), "a condition Equals has no LeftValue"),
        (condition(Type="Not"), "a condition Not has no Expression"),
        (condition(Type="Or"), "a condition Or has no Conditions"),
        (condition(Type="In", QueryValue=1, Values=5), "Values of a condition In is not a list: 5"),
        ({"Name": "Odd", "Type": "Condition", "Arguments": {}}, "'Conditions' is missing"),
        (equals({"Std:Join": 5}), "Std:Join needs a text On and a list Values, not 5"),
        (equals({"Std:JsonGet": {"Path": "a"}}), "Std:JsonGet needs a Path, and a PropertyFile or an S3Uri"),
        (equals({"Std:JsonGet": {"PropertyFile": "x", "Path": "a"}}), 'PropertyFile: "x" is no reference'),
        (process("Odd", "true", CacheConfig={"Enabled": True, "ExpireAfter": 5}), "ExpireAfter: 5 is not a duration"),
        (
            process("Odd", "true", CacheConfig={"Enabled": True, "ExpireAfter": f"p{'9' * 400}y"}),
            "is not a duration in ISO 8601",
        ),
        (
            process("Odd", "false", RetryPolicies=[{"ExceptionType": None}]),
            "RetryPolicies: ClientError: the step cannot",
        ),
    ],
)
def test_a_malformed_step_fails_alone(sm: Client, step: dict[str, Any], reason: str) -> None:
    create(sm, process("Beside", "sleep", "0.3"), step)
    arn = start(sm)
    described = end(sm, arn)
    assert described["PipelineExecutionStatus"] == "Failed"
    assert described["FailureReason"].startswith("Step failure: One or multiple steps failed: Odd: ")
    done = steps(sm, arn)
    assert (done["Odd"]["StepStatus"], done["Beside"]["StepStatus"]) == ("Failed", "Succeeded")
    assert reason in done["Odd"]["FailureReason"]


def test_a_deleted_job_fails_its_step_alone(sm: Client) -> None:
    policy = {"ExceptionType": ["SageMaker.JOB_INTERNAL_ERROR"], "MaxAttempts": 1, "IntervalSeconds": 1}
    for attempt in range(5):  # the job must be deleted between its end and the look at it
        name = f"p{attempt}"
        create(sm, process("Quick", "true", RetryPolicies=[policy]), process("Beside", "sleep", "1"), name=name)
        arn = sm.start_pipeline_execution(PipelineName=name)["PipelineExecutionArn"]
        job = until(lambda arn=arn: steps(sm, arn).get("Quick", {}).get("Metadata"), bool)  # type: ignore[misc]
        job_name = job["ProcessingJob"]["Arn"].rpartition("/")[2]
        ended = lambda d: d["ProcessingJobStatus"] == "Completed"  # noqa: E731
        until(lambda n=job_name: sm.describe_processing_job(ProcessingJobName=n), ended)  # type: ignore[misc]
        sm.delete_processing_job(ProcessingJobName=job_name)
        end(sm, arn)
        done = steps(sm, arn)
        assert done["Beside"]["StepStatus"] == "Succeeded"
        if done["Quick"]["StepStatus"] == "Failed":
            assert "was deleted" in done["Quick"]["FailureReason"]
            return
    pytest.skip("each job was seen before it was deleted")


def test_an_execution_whose_state_cannot_be_written_ends_with_its_jobs(emulator: Emulator, sm: Client) -> None:
    create(sm, process("Slow", "sleep", "60"), process("Quick", "sleep", "0.5"))
    arn = start(sm)
    until(lambda: [s["StepStatus"] for s in steps(sm, arn).values()], lambda s: s == ["Executing"] * 2)
    folder = emulator.folder / "records/pipeline-execution"
    folder.rename(folder.with_name("moved"))
    folder.touch()  # nothing can be written beneath a file
    described = end(sm, arn)
    assert described["PipelineExecutionStatus"] == "Failed"
    assert described["FailureReason"].startswith("InternalServerError: ")
    assert {s["StepStatus"] for s in steps(sm, arn).values()} == {"Failed"}
    jobs = until(
        lambda: [j["ProcessingJobStatus"] for j in sm.list_processing_jobs()["ProcessingJobSummaries"]],
        lambda found: "InProgress" not in found and "Stopping" not in found,
    )
    assert sorted(jobs) == ["Completed", "Stopped"]
    folder.unlink()
    folder.with_name("moved").rename(folder)


def test_a_selective_execution_fails_by_its_own_steps_only(sm: Client) -> None:
    create(sm, process("Bad", "false"), process("Good", "true"))
    source = start(sm)
    assert end(sm, source)["PipelineExecutionStatus"] == "Failed"
    selective = start(sm, source, "Good")
    assert end(sm, selective)["PipelineExecutionStatus"] == "Succeeded"
    assert "SelectiveExecutionResult" in steps(sm, selective)["Bad"]
    again = start(sm, source, "Bad")
    assert end(sm, again)["FailureReason"].count("Bad: ") == 1
    sm.retry_pipeline_execution(PipelineExecutionArn=again, ClientRequestToken=uuid.uuid4().hex)
    end(sm, again)
    done = steps(sm, again)
    assert done["Bad"]["AttemptCount"] == 2
    assert "SelectiveExecutionResult" in done["Good"], "a retry runs selected steps only"
    assert len(sm.list_processing_jobs()["ProcessingJobSummaries"]) == 5


def test_the_source_of_a_selective_execution_must_have_ended(sm: Client) -> None:
    create(sm, process("Slow", "sleep", "60"), process("Good", "true"))
    source = start(sm)
    with pytest.raises(ClientError, match="the execution is Executing, and must be Succeeded or Failed"):
        start(sm, source, "Good")
    sm.stop_pipeline_execution(PipelineExecutionArn=source, ClientRequestToken=uuid.uuid4().hex)
    assert end(sm, source)["PipelineExecutionStatus"] == "Stopped"


def test_pipelines_and_executions_are_listed_by_time(sm: Client) -> None:
    create(sm, {"Name": "End", "Type": "Fail", "Arguments": {"ErrorMessage": "x"}})
    end(sm, start(sm))
    now = time.time()
    for bounds, count in (
        ({"CreatedAfter": now + 60}, 0),
        ({"CreatedBefore": now - 60}, 0),
        ({"CreatedAfter": now - 60, "CreatedBefore": now + 60}, 1),
    ):
        assert len(sm.list_pipelines(**bounds)["PipelineSummaries"]) == count
        executions = sm.list_pipeline_executions(PipelineName="p", **bounds)["PipelineExecutionSummaries"]
        assert len(executions) == count


def test_a_name_in_use_is_said_as_sdk_2_expects(sm: Client) -> None:
    create(sm, {"Name": "End", "Type": "Fail"})
    with pytest.raises(ClientError, match=r"Pipeline with name \(p\) already exists"):
        create(sm, {"Name": "End", "Type": "Fail"})
