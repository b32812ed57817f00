"""Asynchronous endpoints, data capture, and the limits of serverless endpoints, by boto3."""

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import urllib3
from botocore.exceptions import ClientError
from emulator_helpers import BUCKET, Client, client, content, keys, until
from hosting_helpers import hosting, make_model, settled, variant

from sagemaker_emulator.server import Emulator

ASYNC = {
    "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 1},
    "OutputConfig": {"S3OutputPath": f"s3://{BUCKET}/answers/", "S3FailurePath": f"s3://{BUCKET}/failures"},
}
CAPTURE = {
    "EnableCapture": True,
    "InitialSamplingPercentage": 100,
    "DestinationS3Uri": f"s3://{BUCKET}/captured",
    "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
}


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Emulator]:
    with hosting(tmp_path / "e") as running:
        yield running


def endpoint(emulator: Emulator, name: str, *, model: str = "m", **config: Any) -> dict[str, Any]:  # noqa: ANN401
    sm = client(emulator, "sagemaker")
    if "ProductionVariants" not in config:
        config["ProductionVariants"] = [variant(make_model(emulator, model))]
    sm.create_endpoint_config(EndpointConfigName=name, **config)
    sm.create_endpoint(EndpointName=name, EndpointConfigName=name)
    return settled(sm, name)


def call(emulator: Emulator, body: bytes, key: str = "in/a", **more: str) -> dict[str, Any]:
    client(emulator, "s3").put_object(Bucket=BUCKET, Key=key, Body=body)
    runtime = client(emulator, "sagemaker-runtime")
    answer: dict[str, Any] = runtime.invoke_endpoint_async(
        EndpointName="later", InputLocation=f"s3://{BUCKET}/{key}", **more
    )
    return answer


def arrived(s3: Client, uri: str) -> bytes:
    """An object, once it is there."""
    key = uri.removeprefix(f"s3://{BUCKET}/")
    until(lambda: [o["Key"] for o in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])], lambda keys: key in keys)
    return content(s3, key)


@pytest.mark.slow
def test_an_asynchronous_call_leaves_its_result_or_its_failure_in_s3(tiny: Emulator) -> None:
    described = endpoint(tiny, "later", AsyncInferenceConfig=ASYNC)
    assert described["EndpointStatus"] == "InService"
    assert described["AsyncInferenceConfig"] == ASYNC
    s3, runtime = client(tiny, "s3"), client(tiny, "sagemaker-runtime")
    accepted = call(tiny, b"hello", InferenceId='my "own"', ContentType="text/csv", CustomAttributes="c")
    assert accepted["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert accepted["InferenceId"] == 'my "own"'
    assert accepted["OutputLocation"].startswith(f"s3://{BUCKET}/answers/")
    result = json.loads(arrived(s3, accepted["OutputLocation"]))
    assert result["body"] == "hello"
    assert result["headers"]["content-type"] == "text/csv"
    assert result["headers"]["x-amzn-sagemaker-custom-attributes"] == "c"
    s3.put_object(Bucket=BUCKET, Key="in/typed", Body=b"[1]", ContentType="application/json")
    typed = runtime.invoke_endpoint_async(EndpointName="later", InputLocation=f"s3://{BUCKET}/in/typed")
    headers = json.loads(arrived(s3, typed["OutputLocation"]))["headers"]
    assert headers["content-type"] == "application/json", "as it is stored"
    failed = arrived(s3, call(tiny, b"status 400")["FailureLocation"])
    assert b'Received client error (400) from primary with message "you asked for it"' in failed
    slow = arrived(s3, call(tiny, b"sleep 30", InvocationTimeoutSeconds=1)["FailureLocation"])  # type: ignore[arg-type]
    assert b"InvocationTimeoutSeconds" in slow
    missing = runtime.invoke_endpoint_async(EndpointName="later", InputLocation=f"s3://{BUCKET}/none")
    assert b"There is no object at" in arrived(s3, missing["FailureLocation"])
    with pytest.raises(ClientError, match="is asynchronous: send it an InvokeEndpointAsync"):
        runtime.invoke_endpoint(EndpointName="later", Body=b"x")
    with pytest.raises(ClientError, match="RequestTTLSeconds must be a number from 60 to 21600"):
        call(tiny, b"x", RequestTTLSeconds=21_601)  # type: ignore[arg-type]
    endpoint(tiny, "now", model="n")
    with pytest.raises(ClientError, match="is not asynchronous: send it an InvokeEndpoint"):
        runtime.invoke_endpoint_async(EndpointName="now", InputLocation=f"s3://{BUCKET}/in/a")


@pytest.mark.slow
def test_calls_that_were_accepted_are_answered_after_a_restart(tmp_path: Path) -> None:
    with hosting(tmp_path / "e") as first:
        endpoint(first, "later", AsyncInferenceConfig=ASYNC)
        places = [call(first, b"sleep 0.5", key=f"in/{i}")["OutputLocation"] for i in range(4)]  # one at a time
    with hosting(tmp_path / "e") as second:
        s3 = client(second, "s3")
        assert [json.loads(arrived(s3, place))["body"] for place in places] == ["sleep 0.5"] * 4
        assert not list((tmp_path / "e").rglob("async-invocation/*.json")), "no call is left"


@pytest.mark.slow
def test_waiting_calls_need_no_thread_each_and_fail_with_their_endpoint(tiny: Emulator) -> None:
    endpoint(tiny, "later", AsyncInferenceConfig=ASYNC)
    url, before = f"{tiny.url}/endpoints/later/async-invocations", threading.active_count()
    for number in range(50):
        answer = urllib3.request("POST", url, body=b"sleep 2" if number == 0 else b"x", retries=False)
        assert answer.status == 202
    assert threading.active_count() < before + 15
    client(tiny, "sagemaker").delete_endpoint(EndpointName="later")
    s3 = client(tiny, "s3")
    failures = until(lambda: keys(s3, "failures/"), lambda found: len(found) == 49)
    assert {content(s3, key) for key in failures} == {b"Endpoint later was deleted."}
    assert len(keys(s3, "answers/")) == 1, "the call that ran"


def test_captured_calls_lie_in_s3_as_json_lines(tiny: Emulator) -> None:
    described = endpoint(tiny, "watched", DataCaptureConfig=CAPTURE)
    assert described["DataCaptureConfig"]["CaptureStatus"] == "Started"
    runtime, s3 = client(tiny, "sagemaker-runtime"), client(tiny, "s3")
    runtime.invoke_endpoint(EndpointName="watched", Body=b"a photo", ContentType="image/jpeg", Accept="text/plain")
    runtime.invoke_endpoint(EndpointName="watched", Body=b"[1]", ContentType="application/json", InferenceId="id7")
    keys = sorted(o["Key"] for o in s3.list_objects_v2(Bucket=BUCKET, Prefix="captured/")["Contents"])
    assert all(key.startswith("captured/watched/AllTraffic/20") and key.endswith(".jsonl") for key in keys)
    photo, numbers = sorted(
        (json.loads(content(s3, k)) for k in keys), key=lambda r: "inferenceId" in r["eventMetadata"]
    )
    sent = photo["captureData"]["endpointInput"]
    assert (sent["observedContentType"], sent["mode"], sent["encoding"]) == ("image/jpeg", "INPUT", "BASE64")
    assert base64.b64decode(sent["data"]) == b"a photo"
    assert numbers["captureData"]["endpointInput"]["data"] == "[1]"
    assert json.loads(numbers["captureData"]["endpointOutput"]["data"])["model"] == "m"
    assert numbers["eventMetadata"]["inferenceId"] == "id7"


@pytest.mark.slow
def test_a_serverless_endpoint_serves_its_number_of_requests_at_a_time(tiny: Emulator) -> None:
    less = {
        "VariantName": "a",
        "ModelName": make_model(tiny, "m"),
        "ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 1},
    }
    endpoint(tiny, "less", ProductionVariants=[less])
    runtime = client(tiny, "sagemaker-runtime", retries={"max_attempts": 0})

    def code(body: bytes) -> str:
        try:
            runtime.invoke_endpoint(EndpointName="less", Body=body)
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "served"

    with ThreadPoolExecutor(3) as threads:
        assert sorted(threads.map(code, [b"sleep 2"] * 3)) == ["ThrottlingException"] * 2 + ["served"]
    assert code(b"x") == "served"


@pytest.mark.parametrize("digits", ["9" * 5_000, "x", "-1"])
def test_a_malformed_time_limit_is_refused(tiny: Emulator, digits: str) -> None:
    endpoint(tiny, "later", AsyncInferenceConfig=ASYNC)
    limit = {"X-Amzn-SageMaker-RequestTTLSeconds": digits}
    url = f"{tiny.url}/endpoints/later/async-invocations"
    answer = urllib3.request("POST", url, body=b"1", headers=limit, retries=False)
    assert answer.status == 400
    assert "RequestTTLSeconds must be a number from 60 to" in json.loads(answer.data)["message"]


@pytest.mark.parametrize("folder", ["出力", "a\nX-Injected: 1"])
def test_a_result_may_have_a_name_that_no_header_takes(tiny: Emulator, folder: str) -> None:
    config = {"OutputConfig": {"S3OutputPath": f"s3://{BUCKET}/{folder}"}}
    endpoint(tiny, "later", AsyncInferenceConfig=config)
    url = f"{tiny.url}/endpoints/later/async-invocations"
    answer = urllib3.request("POST", url, body=b"1", retries=False)
    assert answer.status == 202
    assert "X-Injected" not in answer.headers
    location = unquote(answer.headers["X-Amzn-SageMaker-OutputLocation"])
    assert location.startswith(f"s3://{BUCKET}/{folder}/")
    key = location.removeprefix(f"s3://{BUCKET}/")
    until(lambda: keys(client(tiny, "s3"), ""), lambda found: key in found)
