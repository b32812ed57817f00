"""Valid but odd requests, and malformed ones, get AWS's errors or results, never an error of the emulator."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import urllib3
from emulator_helpers import BUCKET, ROLE, client

from sagemaker_emulator.server import Emulator

DEEP = "[" * 20_000 + "]" * 20_000
LOGS = "AWS4-HMAC-SHA256 Credential=a/20260101/us-west-2/logs/aws4_request, Signature=0"
FAIL = json.dumps({"Version": "2020-12-01", "Steps": [{"Name": "End", "Type": "Fail"}]})


def operation(emulator: Emulator, name: str, body: str) -> tuple[int, dict[str, Any]]:
    headers = {"X-Amz-Target": f"SageMaker.{name}"}
    answer = urllib3.request("POST", emulator.url, body=body.encode(), headers=headers, retries=False)
    return answer.status, json.loads(answer.data)


def deep_search(levels: int) -> str:
    nested = '{"SubExpressions": [' * levels
    return f'{{"Resource": "TrainingJob", "SearchExpression": {nested}{{}}{"]}" * levels}}}'


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        (
            "ListModels",
            '{"CreationTimeAfter": "2020-01-01"}',
            "CreationTimeAfter: '2020-01-01' is not a number of seconds",
        ),
        ("ListModels", '{"CreationTimeAfter": Infinity}', "Infinity is not a finite number"),
        ("ListModels", '{"CreationTimeAfter": 1e999}', "1e999 is not a finite number"),
        ("ListModels", '{"CreationTimeAfter": 1e300}', "1 validation error detected"),
        ("ListModels", DEEP, "the body is nested too deeply"),
        ("Search", deep_search(400), "it is nested too deeply"),
    ],
)
def test_a_malformed_request_is_refused(emulator: Emulator, name: str, body: str, message: str) -> None:
    status, answer = operation(emulator, name, body)
    assert (status, answer["__type"]) in ((400, "ValidationException"), (400, "SerializationException"))
    assert message in answer["message"]


@pytest.mark.parametrize(
    ("what", "body", "message"),
    [
        ("quotas", '{"ml.m5.large": Infinity}', "not a finite number"),
        ("quotas", '{"ml.m5.large": -1}', "a quota must not be negative"),
        ("quotas", DEEP, "nested too deeply"),
        ("faults", '{"operation": "*", "kind": "timeout", "seconds": NaN}', "not a finite number"),
        ("faults", '{"operation": "*", "kind": "timeout", "seconds": 1e300}', "seconds=1e+300: it must be from 0 to"),
        ("faults", '{"operation": "*", "kind": "error", "times": -3}', "times=-3: it must not be negative"),
    ],
)
def test_malformed_control_is_refused(emulator: Emulator, what: str, body: str, message: str) -> None:
    answer = urllib3.request("POST", f"{emulator.url}/_emulator/{what}", body=body.encode(), retries=False)
    assert (answer.status, message in json.loads(answer.data)["message"]) == (400, True), answer.data
    assert operation(emulator, "ListModels", "{}")[0] == 200


@pytest.mark.parametrize("body", ["x", "[]", "5", '{"logGroupName": []}', '{"logStreamNamePrefix": 5}'])
def test_malformed_queries_of_logs_are_refused(emulator: Emulator, body: str) -> None:
    headers = {"Authorization": LOGS, "X-Amz-Target": "Logs_20140328.FilterLogEvents"}
    answer = urllib3.request("POST", emulator.url, body=body.encode(), headers=headers, retries=False)
    assert answer.status == 400
    assert json.loads(answer.data)["__type"] in ("SerializationException", "InvalidParameterException")


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: abc\r\n\r\n",
        "Content-Length: -1\r\n\r\n",
        "Content-Length: 99999999999999999999\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_a_malformed_length_is_answered(emulator: Emulator, head: str) -> None:
    with socket.create_connection(("127.0.0.1", int(emulator.url.rpartition(":")[2])), timeout=5) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 400 Bad Request")


def test_the_longest_names_survive_a_restart(tmp_path: Path) -> None:
    long = "p" * 256
    with Emulator(tmp_path) as emulator:
        sm = client(emulator, "sagemaker")
        tags = [{"Key": "k", "Value": "v"}]
        for name in (long, "zz", "aa"):
            sm.create_pipeline(
                PipelineName=name, PipelineDefinition=FAIL, RoleArn=ROLE, ClientRequestToken="t" * 32, Tags=tags
            )
    with Emulator(tmp_path) as emulator:
        sm = client(emulator, "sagemaker")
        assert sm.describe_pipeline(PipelineName=long)["PipelineArn"].endswith(f"/{long}")
        found = [r["Pipeline"] for r in sm.search(Resource="Pipeline")["Results"]]
        assert [p["PipelineName"] for p in found] == ["aa", "zz", long]
        assert found[2]["Tags"] == tags  # ListTags takes shorter ARNs only
        sm.delete_pipeline(PipelineName=long, ClientRequestToken="t" * 32)
    with Emulator(tmp_path) as emulator:
        names = client(emulator, "sagemaker").list_pipelines()["PipelineSummaries"]
        assert [p["PipelineName"] for p in names] == ["aa", "zz"]


def test_a_parent_of_a_tuning_job_needs_a_name(emulator: Emulator) -> None:
    config = {
        "Strategy": "Random",
        "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "acc"},
        "ResourceLimits": {"MaxParallelTrainingJobs": 1, "MaxNumberOfTrainingJobs": 1},
        "ParameterRanges": {"ContinuousParameterRanges": [{"Name": "lr", "MinValue": "0.1", "MaxValue": "1"}]},
    }
    training = {
        "AlgorithmSpecification": {
            "TrainingImage": "x",
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": "acc", "Regex": "acc=([0-9.]+)"}],
        },
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }
    warm = {"WarmStartType": "TransferLearning", "ParentHyperParameterTuningJobs": [{}]}
    request = {
        "HyperParameterTuningJobName": "t",
        "HyperParameterTuningJobConfig": config,
        "TrainingJobDefinition": training,
        "WarmStartConfig": warm,
    }
    status, answer = operation(emulator, "CreateHyperParameterTuningJob", json.dumps(request))
    assert (status, answer["__type"]) == (400, "ValidationException")
    assert "each needs a HyperParameterTuningJobName" in answer["message"]
