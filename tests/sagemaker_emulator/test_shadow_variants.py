"""Shadow variants: copies of requests whose responses nobody gets."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulator_helpers import BUCKET, Client, client, content, keys, log_of, until
from hosting_helpers import hosting, invoke, make_config, make_endpoint, make_model, settled, variant

from sagemaker_emulator.server import Emulator


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    with hosting(tmp_path / "emulator", response=20.0) as running:
        make_model(running, "real")
        yield running


def shadow(model: str, **more: object) -> dict[str, Any]:
    return variant(model, VariantName="shadow") | more


def seen(emulator: Emulator) -> int:
    """The requests that the shadow of the endpoint e has logged."""
    return log_of(emulator, "shadow", "/aws/sagemaker/Endpoints/e").count("invoked")


@pytest.mark.parametrize(("weight", "least", "most"), [(1.0, 40, 40), (0.5, 6, 34), (0.0, 0, 0)])
def test_a_shadow_gets_its_share_of_the_requests(emulator: Emulator, weight: float, least: int, most: int) -> None:
    make_model(emulator, "other", VERBOSE="1")
    found = make_endpoint(
        emulator, "e", variant("real"), ShadowProductionVariants=[shadow("other", InitialVariantWeight=weight)]
    )
    assert [v["VariantName"] for v in found["ProductionVariants"]] == ["AllTraffic"]
    (described,) = found["ShadowProductionVariants"]
    assert (described["VariantName"], described["CurrentWeight"]) == ("shadow", weight)
    assert {invoke(emulator, "e")["model"] for _ in range(40)} == {"real"}
    until(lambda: seen(emulator), lambda count: count >= least)
    time.sleep(0.2)
    assert least <= seen(emulator) <= most  # the bounds for one half fail by chance once in 100,000
    with pytest.raises(ClientError, match="not found"):
        invoke(emulator, "e", TargetVariant="shadow")


@pytest.mark.parametrize(
    ("environment", "body"),
    [({"STATUS": "500"}, b"a"), ({"STATUS": "400"}, b"a"), ({"SLOW": "60"}, b"a"), ({"FATAL": "1"}, b"a")],
    ids=["500", "400", "too slow", "exits"],
)
def test_a_shadow_that_fails_never_disturbs_the_caller(
    emulator: Emulator, environment: dict[str, str], body: bytes
) -> None:
    make_model(emulator, "other", **environment)
    make_endpoint(emulator, "e", variant("real"), ShadowProductionVariants=[shadow("other")])
    begun = time.monotonic()
    assert {invoke(emulator, "e", body)["model"] for _ in range(100)} == {"real"}, "more than copies may wait"
    assert time.monotonic() - begun < 15


def test_calls_of_both_variants_are_captured(emulator: Emulator, s3: Client) -> None:
    make_model(emulator, "other")
    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": f"s3://{BUCKET}/captured",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
    }
    make_endpoint(emulator, "e", variant("real"), ShadowProductionVariants=[shadow("other")], DataCaptureConfig=capture)
    assert invoke(emulator, "e", b"a photo")["model"] == "real"
    for name, model in (("AllTraffic", "real"), ("shadow", "other")):
        (key,) = until(lambda name=name: keys(s3, f"captured/e/{name}/"), bool)  # type: ignore[misc]
        data = json.loads(content(s3, key))["captureData"]
        assert data["endpointInput"]["data"] == "YSBwaG90bw=="
        assert json.loads(data["endpointOutput"]["data"])["model"] == model


def test_an_update_replaces_the_shadow_too(emulator: Emulator, sm: Client) -> None:
    make_model(emulator, "other", VERBOSE="1")
    make_endpoint(emulator, "e", variant("real"))
    make_config(emulator, "with", variant("real"), ShadowProductionVariants=[shadow("other")])
    assert sm.describe_endpoint_config(EndpointConfigName="with")["ShadowProductionVariants"][0]["ModelName"] == "other"
    sm.update_endpoint(EndpointName="e", EndpointConfigName="with")
    pending = sm.describe_endpoint(EndpointName="e")["PendingDeploymentSummary"]
    assert [v["VariantName"] for v in pending["ShadowProductionVariants"]] == ["shadow"]
    assert "ShadowProductionVariants" in settled(sm, "e")
    invoke(emulator, "e")
    until(lambda: seen(emulator), lambda count: count == 1)
    sm.update_endpoint(EndpointName="e", EndpointConfigName="e")
    assert "ShadowProductionVariants" not in settled(sm, "e")
    metrics = client(emulator, "cloudwatch").list_metrics(Namespace="AWS/SageMaker", MetricName="Invocations")
    names = {d["Value"] for m in metrics["Metrics"] for d in m["Dimensions"] if d["Name"] == "VariantName"}
    assert names == {"AllTraffic", "shadow"}
