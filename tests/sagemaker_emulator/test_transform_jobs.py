"""Batch transform of objects in S3."""

import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulator_helpers import BUCKET, ENDED, IMAGE, ROLE, Client, client, content, control, keys, log_of, until
from hosting_helpers import hosting, make_model

from sagemaker_emulator.server import Emulator

LOGS = "/aws/sagemaker/TransformJobs"


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    with hosting(tmp_path / "emulator") as running:
        make_model(running, "m", COLOUR="liver", FLAVOUR="none")
        yield running


def request(name: str, uri: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - of a request
    source = {"S3DataType": more.pop("kind", "S3Prefix"), "S3Uri": f"s3://{BUCKET}/{uri}"}
    return {
        "TransformJobName": name,
        "ModelName": "m",
        "TransformInput": {"DataSource": {"S3DataSource": source}, "ContentType": "text/plain"} | more.pop("input", {}),
        "TransformOutput": {"S3OutputPath": f"s3://{BUCKET}/out/"} | more.pop("output", {}),
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        **more,
    }


def transformed(sm: Client, **asked: Any) -> dict[str, Any]:  # noqa: ANN401 - of a request
    sm.create_transform_job(**asked)
    name = asked["TransformJobName"]
    found: dict[str, Any] = until(
        lambda: sm.describe_transform_job(TransformJobName=name), lambda d: d["TransformJobStatus"] in ENDED, 60
    )
    return found


def data_log(emulator: Emulator, name: str) -> list[str]:
    """What SageMaker said of a job, without the times."""
    said = log_of(emulator, name, LOGS)
    return [line.partition("[sagemaker logs]: ")[2] for line in said if "[sagemaker logs]: " in line]


def put(s3: Client, **objects: bytes) -> None:
    for key, body in objects.items():
        s3.put_object(Bucket=BUCKET, Key=key.replace("__", "/"), Body=body)


def test_every_object_is_answered_under_its_name(emulator: Emulator, sm: Client, s3: Client) -> None:
    put(s3, photos__a__1=b"one", photos__2=b"two", photographs=b"other")
    found = transformed(
        sm, **request("all", "photos/", Environment={"COLOUR": "roan"}, Tags=[{"Key": "a", "Value": "b"}])
    )
    assert found["TransformJobStatus"] == "Completed", found
    assert found["TransformJobArn"] == "arn:aws:sagemaker:us-west-2:123456789012:transform-job/all"
    assert found["TransformStartTime"] <= found["TransformEndTime"]
    assert keys(s3, "out/") == ["out/2.out", "out/a/1.out"]
    said = json.loads(content(s3, "out/a/1.out"))
    assert (said["model"], said["body"], said["headers"]["content-type"]) == ("m", "one", "text/plain")
    environment = said["environment"]
    assert (environment["COLOUR"], environment["FLAVOUR"]) == ("roan", "none")
    assert (environment["SAGEMAKER_BATCH"], environment["SAGEMAKER_MAX_PAYLOAD_IN_MB"]) == ("true", "6")
    assert data_log(emulator, "all") == ["MaxConcurrentTransforms=1, MaxPayloadInMB=6, BatchStrategy=MULTI_RECORD"]
    assert "serving" in log_of(emulator, "all", LOGS)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(environment["SAGEMAKER_BIND_TO_PORT"])), 1).close()
    assert sm.list_tags(ResourceArn=found["TransformJobArn"])["Tags"] == [{"Key": "a", "Value": "b"}]
    assert not (emulator.folder / "transform-jobs/all").exists()


@pytest.mark.parametrize(
    ("more", "written"),
    [
        ({}, b"A,1\nB,2\nC,3\n"),
        ({"input": {"SplitType": "Line"}, "BatchStrategy": "SingleRecord"}, b"A,1B,2C,3"),
        (
            {"input": {"SplitType": "Line"}, "BatchStrategy": "SingleRecord", "output": {"AssembleWith": "Line"}},
            b"A,1\nB,2\nC,3\n",
        ),
        ({"input": {"SplitType": "Line"}, "BatchStrategy": "MultiRecord"}, b"A,1\nB,2\nC,3\n"),
        (
            {"input": {"SplitType": "Line"}, "output": {"AssembleWith": "Line"}, "MaxConcurrentTransforms": 3},
            b"A,1\nB,2\nC,3\n\n",
        ),
    ],
)
def test_objects_are_split_into_records_and_put_together(
    sm: Client, s3: Client, more: dict[str, Any], written: bytes
) -> None:
    put(s3, table=b"a,1\nb,2\nc,3\n")
    more = more | {"output": {"Accept": "text/plain"} | more.get("output", {})}
    asked = request("table", "table", **{k: v for k, v in more.items() if k != "input"}, input=more.get("input", {}))
    assert transformed(sm, **asked)["TransformJobStatus"] == "Completed"
    assert content(s3, "out/table.out") == written


def test_batches_are_as_large_as_the_payload_allows(sm: Client, s3: Client) -> None:
    line = b"x" * 400_000 + b"\n"
    put(s3, table=line * 5)
    asked = request(
        "large", "table", input={"SplitType": "Line"}, output={"AssembleWith": "Line", "Accept": "text/plain"}
    )
    transformed(sm, **asked, MaxPayloadInMB=1)
    assert [len(batch) for batch in content(s3, "out/table.out").split(b"\n\n")[:-1]] == [800_001, 800_001, 400_000]


def test_manifests_and_gzip_are_read(sm: Client, s3: Client) -> None:
    put(s3, photos__a=gzip.compress(b"one"), photos__b=b"two")
    s3.put_object(Bucket=BUCKET, Key="list", Body=json.dumps([{"prefix": f"s3://{BUCKET}/"}, "photos/a"]))
    asked = request("list", "list", kind="ManifestFile", input={"CompressionType": "Gzip"})
    assert transformed(sm, **asked)["TransformJobStatus"] == "Completed"
    assert keys(s3, "out/") == ["out/photos/a.out"]
    assert json.loads(content(s3, "out/photos/a.out"))["body"] == "one"


def test_a_prefix_may_be_part_of_a_name(sm: Client, s3: Client) -> None:
    put(s3, photos__img1=b"one", photos__img2__a=b"two", photos__other=b"three")
    transformed(sm, **request("part", "photos/im"))
    assert keys(s3, "out/") == ["out/img1.out", "out/img2/a.out"]


def test_a_record_that_is_refused_fails_the_job_and_the_log_says_which(
    emulator: Emulator, sm: Client, s3: Client
) -> None:
    put(s3, photos__1=b"one", photos__2=b"status 400", photos__3=b"three")
    found = transformed(sm, **request("bad", "photos/"))
    assert found["TransformJobStatus"] == "Failed"
    assert found["FailureReason"] == "ClientError: See job logs for more information"
    assert keys(s3, "out/") == ["out/1.out", "out/3.out"], "the others are there"
    where = f"{BUCKET}/photos/2: "
    assert data_log(emulator, "bad")[1:] == [
        f"{where}ClientError: 400",
        where,
        f"{where}Message:",
        f"{where}you asked for it",
    ]


def test_what_fails_once_is_sent_again(emulator: Emulator, sm: Client, s3: Client) -> None:
    put(s3, photos__1=b"flaky", bad__1=b"status 500")
    again = request("again", "photos/", ModelClientConfig={"InvocationsMaxRetries": 1})
    assert transformed(sm, **again)["TransformJobStatus"] == "Completed"
    assert content(s3, "out/1.out") == b"now"
    never = request("never", "photos/", ModelClientConfig={"InvocationsMaxRetries": 0})
    found = transformed(sm, **never)
    assert found["FailureReason"] == "AlgorithmError: See job logs for more information"
    assert f"{BUCKET}/photos/1: Bad HTTP status received from algorithm: 500" in data_log(emulator, "never")


@pytest.mark.slow
def test_an_invocation_has_a_time_limit(emulator: Emulator, sm: Client, s3: Client) -> None:
    put(s3, photos__1=b"sleep 20")
    limits = {"InvocationsTimeoutInSeconds": 1, "InvocationsMaxRetries": 0}
    found = transformed(sm, **request("slow", "photos/", ModelClientConfig=limits))
    assert found["TransformJobStatus"] == "Failed"
    assert f"{BUCKET}/photos/1: Algorithm did not answer in time" in data_log(emulator, "slow")


def test_what_a_container_wants_is_asked_and_the_request_goes_first(emulator: Emulator, sm: Client, s3: Client) -> None:
    wants = {"MaxConcurrentTransforms": 4, "BatchStrategy": "SINGLE_RECORD", "MaxPayloadInMB": 2}
    make_model(emulator, "wants", PARAMETERS=json.dumps(wants))
    put(s3, photos__1=b"one")
    transformed(sm, **request("asked", "photos/", MaxPayloadInMB=3) | {"ModelName": "wants"})
    assert data_log(emulator, "asked") == ["MaxConcurrentTransforms=4, MaxPayloadInMB=3, BatchStrategy=SINGLE_RECORD"]


def test_objects_over_the_payload_and_missing_ones_fail_the_job(emulator: Emulator, sm: Client, s3: Client) -> None:
    put(s3, photos__1=b"x" * (2**20 + 1))
    assert "ClientError" in transformed(sm, **request("large", "photos/", MaxPayloadInMB=1))["FailureReason"]
    assert f"{BUCKET}/photos/1: Too much data for max payload size" in data_log(emulator, "large")
    assert "NoSuchKey" in transformed(sm, **request("none", "nothing/"))["FailureReason"]
    nowhere = request("nowhere", "photos/", output={"S3OutputPath": "s3://nowhere/x"})
    assert "NoSuchBucket" in transformed(sm, **nowhere)["FailureReason"]
    make_model(emulator, "dead", EXIT="1")
    found = transformed(sm, **request("dead", "photos/") | {"ModelName": "dead"})
    assert found["FailureReason"] == "AlgorithmError: See job logs for more information"
    assert "no weights here" in log_of(emulator, "dead", LOGS)


def test_a_job_can_be_stopped(emulator: Emulator, sm: Client, s3: Client) -> None:
    put(s3, **{f"photos__{i:02}": b"sleep 0.3" for i in range(50)})
    sm.create_transform_job(**request("long", "photos/"))
    until(lambda: keys(s3, "out/"), bool)
    sm.stop_transform_job(TransformJobName="long")
    found = until(
        lambda: sm.describe_transform_job(TransformJobName="long"), lambda d: d["TransformJobStatus"] in ENDED
    )
    assert found["TransformJobStatus"] == "Stopped"
    assert 0 < len(keys(s3, "out/")) < 50
    assert len(data_log(emulator, "long")) == 1, "nothing failed"
    with pytest.raises(ClientError, match="the job is in status Stopped"):
        sm.stop_transform_job(TransformJobName="long")


def test_jobs_are_listed_and_survive_a_restart(tmp_path: Path) -> None:
    with hosting(tmp_path / "again") as emulator:
        sm, s3 = client(emulator, "sagemaker"), client(emulator, "s3")
        make_model(emulator, "m")
        put(s3, photos__1=b"sleep 30", other__1=b"one")
        transformed(sm, **request("first", "other/"))
        sm.create_transform_job(**request("second", "photos/"))
        with pytest.raises(ClientError, match=r"ResourceInUse.*Job name must be unique"):
            sm.create_transform_job(**request("first", "other/"))
        until(lambda: log_of(emulator, "second", LOGS), bool)
    with hosting(tmp_path / "again") as emulator:
        sm = client(emulator, "sagemaker")
        found = sm.list_transform_jobs()["TransformJobSummaries"]
        assert [(j["TransformJobName"], j["TransformJobStatus"]) for j in found] == [
            ("second", "Failed"),
            ("first", "Completed"),
        ]
        assert found[0]["FailureReason"] == "InternalServerError: the emulator was stopped"
        failed = sm.list_transform_jobs(StatusEquals="Failed", NameContains="SEC")["TransformJobSummaries"]
        assert len(failed) == 1


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"ModelName": "none"}, "ValidationException", "Could not find model"),
        ({"MaxPayloadInMB": 101}, "ValidationException", "must not exceed 100 MB"),
        ({"MaxPayloadInMB": 30, "MaxConcurrentTransforms": 4}, "ValidationException", "must not exceed 100 MB"),
        ({"DataProcessing": {"JoinSource": "Input"}}, "ValidationException", "no DataProcessing"),
        (
            {"TransformResources": {"InstanceType": "ml.p3.2xlarge", "InstanceCount": 1}},
            "ResourceLimitExceeded",
            "'ml.p3.2xlarge for transform job usage' is 0 Instances",
        ),
    ],
)
def test_what_aws_refuses_is_refused(
    emulator: Emulator, sm: Client, change: dict[str, Any], code: str, message: str
) -> None:
    control(emulator, "quotas", {"ml.p3.2xlarge": 0})
    with pytest.raises(ClientError) as refused:
        sm.create_transform_job(**request("refused", "photos/") | change)
    assert refused.value.response["Error"]["Code"] == code
    assert message in str(refused.value)
    with pytest.raises(ClientError, match="Could not find requested job with name: refused"):
        sm.describe_transform_job(TransformJobName="refused")


@pytest.mark.slow
def test_sagehounds_own_server_answers_a_folder_of_photos(
    emulator: Emulator, sm: Client, s3: Client, run: Path, run_photos: Path
) -> None:
    s3.put_object(Bucket=BUCKET, Key="dogs.tar.gz", Body=(run / "model.tar.gz").read_bytes())
    container = {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/dogs.tar.gz"}
    sm.create_model(ModelName="dogs", PrimaryContainer=container, ExecutionRoleArn=ROLE)
    wanted = {}
    for path in sorted((run_photos / "test").glob("*/*.jpg")):
        name = path.relative_to(run_photos / "test").as_posix()
        s3.put_object(Bucket=BUCKET, Key=f"test/{name}", Body=path.read_bytes())
        wanted[f"out/{name}.out"] = path.parent.name.partition(".")[2]
    asked = request("dogs", "test", input={"ContentType": "image/jpeg"}, MaxConcurrentTransforms=4)
    found = transformed(sm, **asked | {"ModelName": "dogs"})
    assert found["TransformJobStatus"] == "Completed", data_log(emulator, "dogs")
    labels = {key: json.loads(content(s3, key))["label"] for key in keys(s3, "out/")}
    assert labels.keys() == wanted.keys()
    assert sum(labels[key] == wanted[key] for key in wanted) > len(wanted) / 2
