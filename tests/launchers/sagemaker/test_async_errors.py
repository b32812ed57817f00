"""An asynchronous endpoint that refuses a photo: an error for the photo, or another attempt."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, EndpointConnectionError
from emulator_helpers import IMAGE, ROLE, client

from sagehound_launchers import endpoint_client
from sagehound_launchers.config import Aws
from sagehound_launchers.endpoint_client import NoPrediction
from sagemaker_emulator.server import Emulator

Call = Callable[..., Any]


@pytest.fixture
def endpoint(emulator: Emulator) -> str:
    """An endpoint of which only the configuration matters here."""
    sm, s3 = client(emulator, "sagemaker"), client(emulator, "s3")
    s3.create_bucket(Bucket="kennel", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    s3.put_object(Bucket="kennel", Key="m.tar.gz", Body=b"m")
    sm.create_model(
        ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": IMAGE, "ModelDataUrl": "s3://kennel/m.tar.gz"}
    )
    variant = {"VariantName": "main", "ModelName": "m", "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    output = {"OutputConfig": {"S3OutputPath": "s3://kennel/async/dogs/out"}}
    sm.create_endpoint_config(
        EndpointConfigName="c", ProductionVariants=[variant | {"InitialVariantWeight": 1}], AsyncInferenceConfig=output
    )
    sm.create_endpoint(EndpointName="dogs", EndpointConfigName="c")
    return "dogs"


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Exception], list[str]]:
    """Let an operation raise an error; returns the list of its calls."""
    real: Call = getattr(BaseClient, "_make_api_call")  # noqa: B009 - boto3 has no other place for faults of its own
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def set_up(refused: str, error: Exception) -> list[str]:
        calls: list[str] = []

        def call(self: BaseClient, operation: str, given: Any) -> Any:  # noqa: ANN401 - boto3's
            if operation == "InvokeEndpoint":  # AWS's response for an asynchronous endpoint
                raise failure("ValidationError", 400, operation)
            if operation == refused:
                calls.append(operation)
                raise error
            return {} if operation == "PutObject" else real(self, operation, given)

        monkeypatch.setattr(BaseClient, "_make_api_call", call)
        return calls

    return set_up


def failure(code: str, status: int, operation: str) -> ClientError:
    response = {"Error": {"Code": code, "Message": f"{code}!"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, operation)


@pytest.mark.parametrize(
    ("operation", "error", "times"),
    [
        ("PutObject", failure("AccessDenied", 403, "PutObject"), 1),
        ("PutObject", EndpointConnectionError(endpoint_url="s3"), 1),
        ("PutObject", failure("SlowDown", 503, "PutObject"), 6),
        ("InvokeEndpointAsync", failure("ThrottlingException", 400, "InvokeEndpointAsync"), 6),
    ],
)
def test_a_refusal_is_the_photos_error(
    emulator: Emulator,
    endpoint: str,
    refuse: Callable[[str, Exception], list[str]],
    operation: str,
    error: Exception,
    times: int,
) -> None:
    calls = refuse(operation, error)
    ask = endpoint_client.connect(endpoint, Aws(name="emulator", folder=str(emulator.folder)))
    ((name, result),) = endpoint_client.predict(ask, [("a.jpg", b"photo")], clients=1)
    assert (name, type(result), str(result)) == ("a.jpg", NoPrediction, str(error))
    assert len(calls) == times, "attempts"
