"""Models, endpoint configurations, endpoints, and what they answer."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulator_helpers import BUCKET, IMAGE, ROLE, Client, client, control, log_of, until
from hosting_helpers import (
    TINY,
    hosting,
    invoke,
    make_config,
    make_endpoint,
    make_model,
    packed,
    settled,
    variant,
)

from sagemaker_emulator.server import Emulator

MODEL_ARN = "arn:aws:sagemaker:us-west-2:123456789012:model/"
ENDPOINTS = "/aws/sagemaker/Endpoints/"


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    with hosting(tmp_path / "emulator") as running:
        yield running


def test_an_endpoint_answers_with_its_model(emulator: Emulator, sm: Client) -> None:
    make_model(emulator, "spaniel", COLOUR="liver", FOLDER="/opt/ml/model")
    make_config(emulator, "dogs", variant("spaniel"))
    arn = sm.create_endpoint(EndpointName="dogs", EndpointConfigName="dogs", Tags=[{"Key": "a", "Value": "b"}])
    assert arn["EndpointArn"] == "arn:aws:sagemaker:us-west-2:123456789012:endpoint/dogs"
    created = sm.describe_endpoint(EndpointName="dogs")
    assert (created["EndpointStatus"], "ProductionVariants" in created) == ("Creating", False)
    found = settled(sm, "dogs")
    assert found["EndpointStatus"] == "InService", found
    (described,) = found["ProductionVariants"]
    assert (described["CurrentInstanceCount"], described["CurrentWeight"]) == (1, 1.0)
    assert sm.list_tags(ResourceArn=arn["EndpointArn"])["Tags"] == [{"Key": "a", "Value": "b"}]

    answer = client(emulator, "sagemaker-runtime").invoke_endpoint(
        EndpointName="dogs",
        Body=b"a photo",
        ContentType="image/jpeg",
        Accept="application/json;top_k=2",
        CustomAttributes="mine",
        InferenceId="17",
    )
    assert (answer["ContentType"], answer["InvokedProductionVariant"]) == ("application/json", "AllTraffic")
    assert answer["CustomAttributes"] == "seen"
    said = json.loads(answer["Body"].read())
    assert (said["model"], said["body"]) == ("spaniel", "a photo")
    headers = said["headers"]
    assert (headers["content-type"], headers["accept"]) == ("image/jpeg", "application/json;top_k=2")
    assert headers["x-amzn-sagemaker-custom-attributes"] == "mine"
    assert headers["x-amzn-sagemaker-inference-id"] == "17"
    assert "authorization" not in headers
    environment = said["environment"]
    assert (environment["COLOUR"], environment["FOLDER"]) == (
        "liver",
        environment["SAGEMAKER_EMULATOR_OPT_ML"] + "/model",
    )
    assert log_of(emulator, "AllTraffic", ENDPOINTS + "dogs") == ["serving"]
    assert control(emulator, "requests")["InvokeEndpoint"] == 1

    sm.delete_endpoint(EndpointName="dogs")
    until(lambda: [e["EndpointName"] for e in sm.list_endpoints()["Endpoints"]], lambda names: names == [])
    with pytest.raises(ClientError, match=r"ValidationException.*Could not find endpoint"):
        sm.describe_endpoint(EndpointName="dogs")
    with pytest.raises(ClientError, match=r"ValidationError.*Endpoint dogs of account 123456789012 not found"):
        invoke(emulator, "dogs")
    assert not list((emulator.folder / "endpoints").rglob("model")), "nothing is left behind"


@pytest.mark.parametrize(
    ("environment", "last"),
    [
        ({"EXIT": "3"}, ["no weights here", "the container ended with exit code 3 before it was ready"]),
        ({"READY_AFTER": "600"}, ["serving"]),
    ],
)
def test_an_endpoint_whose_container_is_not_ready_fails(
    tmp_path: Path, environment: dict[str, str], last: list[str]
) -> None:
    with hosting(tmp_path / "emulator", startup=2.0) as emulator:  # long enough for its first line on a busy machine
        make_model(emulator, "bad", **environment)
        found = make_endpoint(emulator, "bad", variant("bad"))
        assert found["EndpointStatus"] == "Failed"
        assert found["FailureReason"] == (
            "The primary container for production variant AllTraffic did not pass the ping health check. Please check "
            "CloudWatch logs for this endpoint."
        )
        assert log_of(emulator, "AllTraffic", ENDPOINTS + "bad") == last
        with pytest.raises(ClientError, match="not found"):
            invoke(emulator, "bad")
        sm = client(emulator, "sagemaker")
        with pytest.raises(ClientError, match="can only be deleted"):
            sm.update_endpoint(EndpointName="bad", EndpointConfigName="bad")
        sm.delete_endpoint(EndpointName="bad")
        until(lambda: sm.list_endpoints()["Endpoints"], lambda found: found == [])


def test_an_artefact_that_is_gone_or_no_archive_fails_the_endpoint(emulator: Emulator, s3: Client) -> None:
    make_model(emulator, "gone")
    s3.delete_object(Bucket=BUCKET, Key="gone.tar.gz")
    reason = make_endpoint(emulator, "gone", variant("gone"))["FailureReason"]
    assert reason.startswith(f'Failed to download model data for container "container_1" from URL: "s3://{BUCKET}/gone')
    make_model(emulator, "text")
    s3.put_object(Bucket=BUCKET, Key="text.tar.gz", Body=b"no archive")
    reason = make_endpoint(emulator, "text", variant("text"))["FailureReason"]
    assert reason.startswith("Failed to extract model data archive")


def test_an_archive_whose_checksum_is_wrong_fails_the_endpoint(emulator: Emulator, s3: Client) -> None:
    make_model(emulator, "torn")
    archive = bytearray(packed(name="torn"))
    archive[-8] ^= 255
    s3.put_object(Bucket=BUCKET, Key="torn.tar.gz", Body=bytes(archive))
    failed = make_endpoint(emulator, "torn", variant("torn"))
    assert failed["EndpointStatus"] == "Failed"
    assert "is a valid tar.gz archive" in failed["FailureReason"]


def test_what_a_container_says_comes_back_as_a_model_error(emulator: Emulator) -> None:
    make_model(emulator, "m")
    make_endpoint(emulator, "m", variant("m"))
    for status, whose in ((400, "client"), (503, "server"), (302, "server")):
        with pytest.raises(ClientError) as refused:
            invoke(emulator, "m", f"status {status}".encode())
        said = refused.value.response
        assert (said["Error"]["Code"], said["ResponseMetadata"]["HTTPStatusCode"]) == ("ModelError", 424)
        assert said["OriginalStatusCode"] == status
        assert said["OriginalMessage"] == "you asked for it"
        assert said["LogStreamArn"] == "arn:aws:logs:us-west-2:123456789012:log-group:/aws/sagemaker/Endpoints/m"
        start = (
            f'Received {whose} error ({status}) from primary with message "you asked for it". See https://us-west-2.'
        )
        assert said["Error"]["Message"].startswith(start)


@pytest.mark.slow
def test_a_container_that_is_slow_or_ends_is_a_model_error_and_it_is_started_again(tmp_path: Path) -> None:
    with hosting(tmp_path / "emulator", response=1.0) as emulator:
        make_model(emulator, "m")
        make_endpoint(emulator, "m", variant("m"))
        with pytest.raises(ClientError, match=r"server error \(0\).*Your invocation timed out while waiting"):
            invoke(emulator, "m", b"sleep 5")
        with pytest.raises(ClientError, match=r"server error \(0\).*model process exited"):
            invoke(emulator, "m", b"exit")

        def answers() -> Any:  # noqa: ANN401 - JSON's
            try:
                return invoke(emulator, "m")["model"]
            except ClientError:
                return None

        until(answers, lambda model: model == "m")
        said = log_of(emulator, "AllTraffic", ENDPOINTS + "m")
        assert said == ["serving", "the container ended with exit code 9; it is started again", "serving"]


def test_bodies_have_limits(emulator: Emulator) -> None:
    make_model(emulator, "m")
    make_endpoint(emulator, "m", variant("m"))
    make_endpoint(
        emulator,
        "less",
        {"VariantName": "a", "ModelName": "m", "ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 5}},
    )
    most = 25 * 2**20
    assert len(invoke(emulator, "m", b"x" * most)["body"]) == most
    with pytest.raises(ClientError) as refused:
        invoke(emulator, "m", b"x" * (most + 1))
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413
    assert "HTTP content length exceeded" in str(refused.value)
    assert len(invoke(emulator, "less", b"x" * 2**22)["body"]) == 2**22
    with pytest.raises(ClientError, match=r"ValidationError.*oversize body"):
        invoke(emulator, "less", b"x" * (2**22 + 1))


def test_a_container_may_close_the_connection_late(emulator: Emulator) -> None:
    make_model(emulator, "late", LATE_CLOSE="0.3")
    assert make_endpoint(emulator, "late", variant("late"))["EndpointStatus"] == "InService"
    assert [invoke(emulator, "late", b"%d" % i)["body"] for i in range(3)] == ["0", "1", "2"]


def test_calls_of_other_kinds_are_refused(emulator: Emulator) -> None:
    runtime = client(emulator, "sagemaker-runtime")
    with pytest.raises(ClientError, match="Endpoint e of account 123456789012 not found"):
        runtime.invoke_endpoint_async(EndpointName="e", InputLocation=f"s3://{BUCKET}/x")
    with pytest.raises(ClientError, match="streams no answers"):
        runtime.invoke_endpoint_with_response_stream(EndpointName="e", Body=b"x")


def test_what_no_process_can_be_started_with_fails_the_endpoint(emulator: Emulator) -> None:
    make_model(emulator, "null", A="\0")
    found = make_endpoint(emulator, "null", variant("null"))
    assert found["EndpointStatus"] == "Failed"
    assert "could not be started" in found["FailureReason"]


@pytest.mark.slow
def test_traffic_goes_by_weight_or_to_the_wanted_variant(emulator: Emulator, sm: Client) -> None:
    for name in ("old", "new"):
        make_model(emulator, name)
    found = make_endpoint(
        emulator,
        "both",
        variant("old", VariantName="old", InitialVariantWeight=1),
        variant("new", VariantName="new", InitialVariantWeight=0),
    )
    assert {v["VariantName"]: v["CurrentWeight"] for v in found["ProductionVariants"]} == {"old": 1.0, "new": 0.0}
    assert {invoke(emulator, "both")["model"] for _ in range(20)} == {"old"}
    assert invoke(emulator, "both", TargetVariant="new")["model"] == "new"
    with pytest.raises(ClientError, match=r"ValidationError.*none"):
        invoke(emulator, "both", TargetVariant="none")
    with pytest.raises(ClientError, match="Variant none not found"):
        sm.update_endpoint_weights_and_capacities(
            EndpointName="both",
            DesiredWeightsAndCapacities=[
                {"VariantName": "new", "DesiredWeight": 1000},
                {"VariantName": "none", "DesiredWeight": 1},
            ],
        )
    assert {invoke(emulator, "both")["model"] for _ in range(20)} == {"old"}, "what is refused changes nothing"
    sm.update_endpoint_weights_and_capacities(
        EndpointName="both",
        DesiredWeightsAndCapacities=[
            {"VariantName": "old", "DesiredWeight": 1},
            {"VariantName": "new", "DesiredWeight": 1, "DesiredInstanceCount": 3},
        ],
    )
    settled(sm, "both")
    assert {invoke(emulator, "both")["model"] for _ in range(60)} == {"old", "new"}
    described = sm.describe_endpoint(EndpointName="both")["ProductionVariants"]
    assert [(v["CurrentWeight"], v["CurrentInstanceCount"]) for v in described] == [(1.0, 1), (1.0, 3)]


def test_the_largest_weights_may_be_added(emulator: Emulator) -> None:
    model = make_model(emulator, "m")
    variants = [variant(model, VariantName=name, InitialVariantWeight=1e308) for name in ("a", "b")]
    make_endpoint(emulator, "dogs", *variants)
    assert {invoke(emulator, "dogs")["model"] for _ in range(5)} == {"m"}


@pytest.mark.slow
def test_an_update_lets_no_request_down(emulator: Emulator, sm: Client) -> None:
    make_model(emulator, "old")
    make_model(emulator, "new", READY_AFTER="1")
    make_endpoint(emulator, "e", variant("old"))
    make_config(emulator, "next", variant("new"))
    sm.update_endpoint(EndpointName="e", EndpointConfigName="next")
    during = sm.describe_endpoint(EndpointName="e")
    assert (during["EndpointStatus"], during["EndpointConfigName"]) == ("Updating", "e")
    assert during["PendingDeploymentSummary"]["EndpointConfigName"] == "next"
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        sm.update_endpoint(EndpointName="e", EndpointConfigName="next")
    with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
        sm.delete_endpoint(EndpointName="e")
    answered: list[str] = []

    def ask() -> None:
        end = time.monotonic() + 30
        while (not answered or answered[-1] != "new") and time.monotonic() < end:
            answered.append(invoke(emulator, "e", b"sleep 0.5")["model"])

    with ThreadPoolExecutor(4) as threads:
        for asked in [threads.submit(ask) for _ in range(4)]:
            asked.result()
    assert (answered[0], answered[-1]) == ("old", "new")
    found = settled(sm, "e")
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "next")
    assert "PendingDeploymentSummary" not in found
    until(lambda: len(list((emulator.folder / "endpoints/e").iterdir())), lambda left: left == 1)


def test_an_update_that_fails_leaves_the_old_one(emulator: Emulator, sm: Client) -> None:
    make_model(emulator, "old")
    make_model(emulator, "bad", EXIT="1")
    make_endpoint(emulator, "e", variant("old"))
    make_config(emulator, "next", variant("bad"))
    sm.update_endpoint(EndpointName="e", EndpointConfigName="next")
    found = settled(sm, "e")
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "e")
    assert "did not pass the ping health check" in found["FailureReason"]
    assert invoke(emulator, "e")["model"] == "old"


@pytest.mark.slow
def test_endpoints_are_in_service_again_after_a_restart(tmp_path: Path) -> None:
    with hosting(tmp_path / "emulator") as emulator:
        make_model(emulator, "m", READY_AFTER="1")
        make_model(emulator, "bad", EXIT="1")
        make_endpoint(emulator, "e", variant("m", InitialVariantWeight=0.5))
        make_endpoint(emulator, "failed", variant("bad"))
        sm = client(emulator, "sagemaker")
        sm.delete_model(ModelName="m")
        sm.delete_endpoint_config(EndpointConfigName="e")
        assert invoke(emulator, "e")["model"] == "m", "it runs on without them"
        (folder,) = (emulator.folder / "endpoints/e").iterdir()
    assert not folder.exists()
    with hosting(tmp_path / "emulator") as emulator:
        sm = client(emulator, "sagemaker")
        assert sm.describe_endpoint(EndpointName="e")["EndpointStatus"] == "SystemUpdating"
        found = settled(sm, "e")
        assert (found["EndpointStatus"], found["ProductionVariants"][0]["CurrentWeight"]) == ("InService", 0.5)
        assert invoke(emulator, "e")["model"] == "m"
        assert sm.describe_endpoint(EndpointName="failed")["EndpointStatus"] == "Failed"


@pytest.mark.slow
def test_what_was_begun_when_the_emulator_ended_is_begun_again_or_undone(tmp_path: Path) -> None:
    with hosting(tmp_path / "emulator") as emulator:
        make_model(emulator, "m")
        make_model(emulator, "slow", READY_AFTER="3")
        make_endpoint(emulator, "updated", variant("m"))
        make_config(emulator, "slow", variant("slow"))
        sm = client(emulator, "sagemaker")
        sm.create_endpoint(EndpointName="created", EndpointConfigName="slow")
        sm.update_endpoint(EndpointName="updated", EndpointConfigName="slow")
        until(lambda: log_of(emulator, "AllTraffic", ENDPOINTS + "created"), bool)
    with hosting(tmp_path / "emulator") as emulator:
        sm = client(emulator, "sagemaker")
        assert sm.describe_endpoint(EndpointName="created")["EndpointStatus"] == "Creating"
        found = settled(sm, "updated")
        assert (found["EndpointConfigName"], found["FailureReason"]) == ("updated", "the emulator was stopped")
        assert invoke(emulator, "updated")["model"] == "m"
        assert settled(sm, "created")["EndpointStatus"] == "InService"
        assert invoke(emulator, "created")["model"] == "slow"


def test_one_variant_that_fails_fails_the_endpoint_at_once(tmp_path: Path) -> None:
    with hosting(tmp_path / "emulator", startup=600.0) as emulator:
        make_model(emulator, "slow", READY_AFTER="600")
        make_model(emulator, "bad", EXIT="1")
        variants = [variant("slow", VariantName="slow"), variant("bad", VariantName="bad")]
        found = make_endpoint(emulator, "e", *variants)
        assert "for production variant bad did not pass" in found["FailureReason"]


def test_a_container_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    with hosting(tmp_path / "emulator", grace=0.5) as emulator:
        make_model(emulator, "deaf", DEAF="1")
        make_endpoint(emulator, "deaf", variant("deaf"))
        sm = client(emulator, "sagemaker")
        sm.delete_endpoint(EndpointName="deaf")
        assert sm.describe_endpoint(EndpointName="deaf")["EndpointStatus"] == "Deleting"
        until(lambda: sm.list_endpoints()["Endpoints"], lambda found: found == [])


# Many models


@pytest.fixture
def many(emulator: Emulator, s3: Client) -> Emulator:
    for name in ("a", "b", "c", "broken"):
        s3.put_object(Bucket=BUCKET, Key=f"models/{name}.tar.gz", Body=packed(name=name))
    s3.put_object(Bucket=BUCKET, Key="models/text.tar.gz", Body=b"no archive")
    return emulator


def loads(emulator: Emulator, endpoint: str) -> list[str]:
    return [line for line in log_of(emulator, "AllTraffic", ENDPOINTS + endpoint) if line != "serving"]


def test_models_are_loaded_when_asked_for_and_the_least_recently_used_goes(many: Emulator) -> None:
    make_model(many, "zoo", many=True, ROOM="2")
    make_endpoint(many, "zoo", variant("zoo"))
    asked = ["a", "b", "a", "c", "a", "b"]
    answers = [invoke(many, "zoo", TargetModel=f"{name}.tar.gz") for name in asked]
    assert [a["model"] for a in answers] == asked
    assert answers[0]["headers"]["x-amzn-sagemaker-target-model"] == "a.tar.gz"
    assert answers[0]["environment"]["SAGEMAKER_MULTI_MODEL"] == "true"
    assert loads(many, "zoo") == [
        "loaded a.tar.gz",
        "loaded b.tar.gz",
        "unloaded",
        "loaded c.tar.gz",
        "unloaded",
        "loaded b.tar.gz",
    ]


def test_what_cannot_be_loaded_is_told(many: Emulator) -> None:
    make_model(many, "zoo", many=True)
    make_model(many, "full", many=True, ROOM="0")
    make_model(many, "one")
    for name in ("zoo", "full", "one"):
        make_endpoint(many, name, variant(name))
    for endpoint, more, message in (
        ("zoo", {}, r"ValidationError.*missing a target model header"),
        ("one", {"TargetModel": "a.tar.gz"}, r"ValidationError.*Endpoint one is not a multi-model endpoint"),
        ("zoo", {"TargetModel": "d.tar.gz"}, r"ValidationError.*data\(bucket: photos, key: models/d.tar.gz\)"),
        ("zoo", {"TargetModel": "text.tar.gz"}, r"ValidationError.*Failed to extract"),
        ("zoo", {"TargetModel": "broken.tar.gz"}, r"ModelError.*\(400\).*this model is broken"),
        ("full", {"TargetModel": "a.tar.gz"}, r"ModelError.*\(507\)"),
    ):
        with pytest.raises(ClientError, match=message):
            invoke(many, endpoint, **more)
    assert invoke(many, "zoo", TargetModel="a.tar.gz")["model"] == "a"


@pytest.mark.slow
def test_a_model_is_loaded_once_however_many_ask_and_others_are_answered_meanwhile(many: Emulator) -> None:
    make_model(many, "zoo", many=True, LOADING="1")
    make_endpoint(many, "zoo", variant("zoo"))
    invoke(many, "zoo", TargetModel="a.tar.gz")
    with ThreadPoolExecutor(8) as threads:
        slow = [threads.submit(invoke, many, "zoo", TargetModel="b.tar.gz") for _ in range(6)]
        assert invoke(many, "zoo", TargetModel="a.tar.gz")["model"] == "a"
        assert not any(future.done() for future in slow), "a was answered while b was being loaded"
        assert {future.result()["model"] for future in slow} == {"b"}
    assert loads(many, "zoo") == ["loaded a.tar.gz", "loaded b.tar.gz"]


def test_a_model_that_takes_too_long_to_load_is_not_ready_yet(tmp_path: Path) -> None:
    with hosting(tmp_path / "emulator", response=0.5) as emulator:
        client(emulator, "s3").put_object(Bucket=BUCKET, Key="models/a.tar.gz", Body=packed(name="a"))
        make_model(emulator, "zoo", many=True, LOADING="1.2")
        make_endpoint(emulator, "zoo", variant("zoo"))
        with pytest.raises(ClientError, match="ModelNotReadyException"):
            invoke(emulator, "zoo", TargetModel="a.tar.gz")


@pytest.mark.slow
def test_models_are_loaded_anew_after_their_container_forgot_them_or_ended(many: Emulator) -> None:
    make_model(many, "zoo", many=True)
    make_endpoint(many, "zoo", variant("zoo"))
    invoke(many, "zoo", b"forget", TargetModel="a.tar.gz")
    assert invoke(many, "zoo", TargetModel="a.tar.gz")["model"] == "a"
    with pytest.raises(ClientError, match="model process exited"):
        invoke(many, "zoo", b"exit", TargetModel="a.tar.gz")

    def answer() -> str | None:
        try:
            return str(invoke(many, "zoo", TargetModel="a.tar.gz")["model"])
        except ClientError:
            return None

    until(answer, lambda model: model == "a")


# What is refused


def test_a_models_role_image_and_artefact_must_be_there(emulator: Emulator, sm: Client, s3: Client) -> None:
    s3.put_object(Bucket=BUCKET, Key="m.tar.gz", Body=b"")
    here = {"Image": TINY, "ModelDataUrl": f"s3://{BUCKET}/m.tar.gz"}
    for container, role, message in (
        (
            here | {"ModelDataUrl": f"s3://{BUCKET}/n.tar.gz"},
            ROLE,
            f"Could not find model data at s3://{BUCKET}/n.tar.gz.",
        ),
        (
            here | {"ModelDataUrl": "s3://nowhere/n.tar.gz"},
            ROLE,
            "Could not access model data at s3://nowhere/n.tar.gz.",
        ),
        (here, ROLE + "x", f'Please ensure that the role "{ROLE}x" exists'),
        (here | {"Image": "python:3.11"}, ROLE, 'Using non-ECR image "python:3.11" without Vpc'),
        ({"ModelDataUrl": here["ModelDataUrl"]}, ROLE, "Image"),
    ):
        with pytest.raises(ClientError) as refused:
            sm.create_model(ModelName="m", PrimaryContainer=container, ExecutionRoleArn=role)
        assert refused.value.response["Error"]["Code"] == "ValidationException"
        assert message in refused.value.response["Error"]["Message"]
    with pytest.raises(ClientError, match="no inference pipelines"):
        sm.create_model(ModelName="m", Containers=[here, here], ExecutionRoleArn=ROLE)
    with pytest.raises(ClientError, match="Could not find model"):
        sm.describe_model(ModelName="m")
    sm.create_model(ModelName="m", Containers=[here], ExecutionRoleArn=ROLE)
    assert sm.describe_model(ModelName="m")["Containers"] == [here | {"Mode": "SingleModel"}]
    with pytest.raises(ClientError, match=f'Cannot create already existing model "{MODEL_ARN}m"'):
        sm.create_model(ModelName="m", PrimaryContainer=here, ExecutionRoleArn=ROLE)
    assert [m["ModelName"] for m in sm.list_models()["Models"]] == ["m"]
    sm.delete_model(ModelName="m")
    assert sm.list_models()["Models"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ModelName": "none"}, f'Could not find model "{MODEL_ARN}none"'),
        ({"InstanceType": "ml.none"}, "is none of AWS's values"),
        ({"ServerlessConfig": {"MemorySizeInMB": 1500, "MaxConcurrency": 1}}, "cannot both be given"),
    ],
)
def test_a_variant_that_aws_refuses_is_refused(
    emulator: Emulator, sm: Client, change: dict[str, Any], message: str
) -> None:
    make_model(emulator, "m")
    with pytest.raises(ClientError, match=message):
        make_config(emulator, "c", variant("m") | change)
    assert sm.list_endpoint_configs()["EndpointConfigs"] == []


@pytest.mark.slow
def test_serverless_variants_have_their_own_rules(many: Emulator) -> None:
    make_model(many, "m")
    make_model(many, "zoo", many=True)
    less = {"VariantName": "a", "ModelName": "m", "ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 5}}
    for wrong, message in (
        ([less | {"ServerlessConfig": {"MemorySizeInMB": 1500, "MaxConcurrency": 1}}], "must be one of 1024"),
        ([less | {"ModelName": "zoo"}], "do not support multi-model"),
        ([less, less | {"VariantName": "b"}], "one production variant"),
        ([less, less], "must be unique"),
    ):
        with pytest.raises(ClientError, match=message):
            make_config(many, "c", *wrong)
    described = make_endpoint(many, "e", less)["ProductionVariants"][0]
    assert described["CurrentServerlessConfig"]["MemorySizeInMB"] == 2048
    assert invoke(many, "e")["model"] == "m"


def test_endpoints_need_a_configuration_a_free_name_and_a_quota(emulator: Emulator, sm: Client) -> None:
    make_model(emulator, "m")
    with pytest.raises(ClientError, match="Could not find endpoint configuration"):
        sm.create_endpoint(EndpointName="e", EndpointConfigName="none")
    make_endpoint(emulator, "e", variant("m", InitialInstanceCount=2))
    with pytest.raises(ClientError, match="Cannot create already existing endpoint "):
        sm.create_endpoint(EndpointName="e", EndpointConfigName="e")
    with pytest.raises(ClientError, match="Cannot create already existing endpoint configuration"):
        make_config(emulator, "e", variant("m"))
    control(emulator, "quotas", {"ml.m5.large": 3})
    with pytest.raises(ClientError) as refused:
        sm.create_endpoint(EndpointName="f", EndpointConfigName="e")
    assert refused.value.response["Error"]["Code"] == "ResourceLimitExceeded"
    assert (
        "'ml.m5.large for endpoint usage' is 3 Instances, with current utilization of 2 Instances and a request "
        "delta of 2 Instances."
    ) in str(refused.value)


def test_faults_befall_invocations_too(emulator: Emulator) -> None:
    make_model(emulator, "m")
    make_endpoint(emulator, "m", variant("m"))
    control(emulator, "faults", {"operation": "InvokeEndpoint", "kind": "throttle"})
    with pytest.raises(ClientError, match="ThrottlingException"):
        invoke(emulator, "m")
    assert invoke(emulator, "m")["model"] == "m"


# Sagehound's own server


@pytest.mark.slow
def test_sagehounds_own_server_answers_a_photo_alone_and_among_others(
    emulator: Emulator, sm: Client, s3: Client, run: Path, photo: bytes
) -> None:
    archive = (run / "model.tar.gz").read_bytes()
    for name in ("one.tar.gz", "dogs/a.tar.gz", "dogs/b.tar.gz"):
        s3.put_object(Bucket=BUCKET, Key=name, Body=archive)
    one = {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/one.tar.gz"}
    dogs = {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/dogs/", "Mode": "MultiModel"}
    for name, container in (("one", one), ("dogs", dogs)):
        sm.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
        found = make_endpoint(emulator, name, variant(name))
        assert found["EndpointStatus"] == "InService", found
    said = invoke(emulator, "one", photo, ContentType="image/jpeg", Accept="application/json;top_k=1")
    assert (said["label"], len(said["top"])) == ("Slate", 1)
    for target in ("a.tar.gz", "b.tar.gz"):
        again = invoke(emulator, "dogs", photo, ContentType="image/jpeg", TargetModel=target)
        assert again["probability"] == said["probability"]
    with pytest.raises(ClientError, match=r"ModelError.*client error \(400\)"):
        invoke(emulator, "one", b"no photo", ContentType="image/jpeg")
    make_config(emulator, "next", variant("dogs"))
    sm.update_endpoint(EndpointName="one", EndpointConfigName="next")
    assert settled(sm, "one")["EndpointConfigName"] == "next"
    assert invoke(emulator, "one", photo, ContentType="image/jpeg", TargetModel="a.tar.gz")["label"] == "Slate"


@pytest.mark.slow  # it imports AWS's SDK
def test_the_sdk_makes_asks_and_deletes_an_endpoint(emulator: Emulator, tmp_path: Path) -> None:
    config = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
    (tmp_path / "sdk.yaml").write_text(json.dumps(config))
    make_model(emulator, "m")
    script = f"""
from sagemaker.core.resources import Endpoint, EndpointConfig, Model
from sagemaker.core.shapes import ContainerDefinition, ProductionVariant
container = ContainerDefinition(image="{TINY}", model_data_url="s3://{BUCKET}/m.tar.gz")
Model.create(model_name="n", primary_container=container, execution_role_arn="{ROLE}")
only = ProductionVariant(
    variant_name="AllTraffic", model_name="n", instance_type="ml.m5.large", initial_instance_count=1
)
EndpointConfig.create(endpoint_config_name="c", production_variants=[only])
endpoint = Endpoint.create(endpoint_name="e", endpoint_config_name="c")
endpoint.wait_for_status("InService", poll=1, timeout=60)
print("LISTED", [e.endpoint_name for e in Endpoint.get_all()])
print("SAID", endpoint.invoke(body=b"a photo", content_type="text/plain", accept="text/plain").body.read())
endpoint.delete()
endpoint.wait_for_delete(poll=1, timeout=60)
"""
    environment = {
        "AWS_ENDPOINT_URL": emulator.url,
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAGEMAKER_VALIDATE_ROLE": "false",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(tmp_path / "sdk.yaml"),
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "LISTED ['e']\nSAID b'A PHOTO'" in done.stdout
    assert client(emulator, "sagemaker").list_endpoints()["Endpoints"] == []
