"""The emulator as a service: S3, refusals, faults, state that survives a restart, and its command."""

import ctypes
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
import urllib3
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from emulator_helpers import (
    BUCKET,
    ROLE,
    TRAIN,
    Client,
    client,
    content,
    control,
    ended,
    job,
    keys,
    log_of,
    processes,
    until,
)

from sagemaker_emulator.errors import EmulatorError
from sagemaker_emulator.identity import KEYS
from sagemaker_emulator.request_validation import service_model
from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings


def test_s3_keeps_bytes_names_and_metadata_over_a_restart(tmp_path: Path) -> None:
    odd = "photos/ü\u2028 +%&=?#/100%.jpg"
    big = os.urandom(9_000_000)  # above boto3's threshold for parts
    with Emulator(tmp_path) as emulator:
        s3 = client(emulator, "s3")
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        s3.put_object(Bucket=BUCKET, Key=odd, Body=b"one", Metadata={"class_name": "x"}, ContentType="image/jpeg")
        s3.upload_fileobj(io.BytesIO(big), BUCKET, "big")
        s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": odd})
        for name in ("a", "b", "c", "twice"):
            s3.put_object(Bucket=BUCKET, Key=name, Body=b"old")
        s3.put_object(Bucket=BUCKET, Key="twice", Body=b"new", Tagging="a=b")  # by way of moto
        s3.delete_object(Bucket=BUCKET, Key="a")
        s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "b"}]})
        before = s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    with Emulator(tmp_path) as emulator:
        s3 = client(emulator, "s3")
        after = s3.list_objects_v2(Bucket=BUCKET)["Contents"]
        told = ("Key", "ETag", "Size")
        assert [[o[k] for k in told] for o in after] == [[o[k] for k in told] for o in before]
        assert [o["Key"] for o in after] == sorted(["big", "c", "copy", odd, "twice"])
        head = s3.head_object(Bucket=BUCKET, Key="copy")
        assert (head["ContentType"], head["Metadata"]) == ("image/jpeg", {"class_name": "x"})
        assert content(s3, "big") == big
        assert s3.get_object(Bucket=BUCKET, Key="big", Range="bytes=10-19")["Body"].read() == big[10:20]
        assert (content(s3, odd), content(s3, "twice")) == (b"one", b"new")
        assert s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] == "us-west-2"
        files = [p for p in (tmp_path / "s3/content").rglob("*") if p.is_file()]
        assert len(files) == len(after), "what was replaced or deleted leaves no file"


@pytest.mark.slow
def test_many_threads_may_write_and_read_the_same_objects(emulator: Emulator, s3: Client) -> None:
    many = client(emulator, "s3", max_pool_connections=16)

    def write_and_read(i: int) -> bool:
        key = f"many/{i % 10}"
        many.put_object(Bucket=BUCKET, Key=key, Body=b"%d" % i, **({"Tagging": "by=moto"} if i % 3 == 0 else {}))
        return int(content(many, key)) % 10 == i % 10

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(write_and_read, range(300)))
    assert len(keys(s3, "many/")) == 10
    assert all(int(content(s3, f"many/{i}")) % 10 == i for i in range(10))


def test_the_other_services_are_there(emulator: Emulator) -> None:
    assert client(emulator, "iam").get_role(RoleName="SageMakerRole")["Role"]["Arn"] == ROLE
    assert client(emulator, "sts").get_caller_identity()["Account"] == "123456789012"
    repository = client(emulator, "ecr").create_repository(repositoryName="sagehound")["repository"]
    assert repository["repositoryUri"].endswith("/sagehound")


def test_an_operation_that_is_not_there_says_so(emulator: Emulator, sm: Client) -> None:
    with pytest.raises(ClientError, match="the emulator has no ListWorkteams") as refused:
        sm.list_workteams()
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 501


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        ("throttle", "ThrottlingException", 400),
        ("error", "InternalFailure", 500),
        ("expired_token", "ExpiredTokenException", 400),
    ],
)
def test_faults_befall_sagemaker(emulator: Emulator, sm: Client, kind: str, code: str, status: int) -> None:
    control(emulator, "faults", [{"operation": "ListTrainingJobs", "kind": kind, "times": 2}])
    for _ in range(2):
        with pytest.raises(ClientError) as refused:
            sm.list_training_jobs()
        assert refused.value.response["Error"]["Code"] == code
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    sm.list_hyper_parameter_tuning_jobs()
    sm.list_training_jobs()
    assert control(emulator, "requests")["ListTrainingJobs"] == 1, "what a fault took was not executed"


@pytest.mark.parametrize(
    ("kind", "code"), [("throttle", "SlowDown"), ("error", "InternalError"), ("expired_token", "ExpiredToken")]
)
def test_faults_befall_s3(emulator: Emulator, s3: Client, kind: str, code: str) -> None:
    control(emulator, "faults", {"operation": "s3:PutObject", "kind": kind})
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=BUCKET, Key="k", Body=b"x")
    assert refused.value.response["Error"]["Code"] == code
    assert keys(s3, "k") == []
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"x")


def test_faults_befall_the_query_protocol_and_everything(emulator: Emulator) -> None:
    control(emulator, "faults", [{"operation": "*", "kind": "expired_token"}])
    with pytest.raises(ClientError, match=r"\(ExpiredToken\)"):
        client(emulator, "sts").get_caller_identity()


@pytest.mark.slow
def test_an_answer_may_be_lost_after_the_job_was_started(emulator: Emulator, sm: Client) -> None:
    control(emulator, "faults", [{"operation": "CreateTrainingJob", "kind": "drop", "after": True}])
    with pytest.raises(ConnectionClosedError):
        sm.create_training_job(**job("lost", ""))
    assert ended(sm, "lost")["TrainingJobStatus"] == "Completed"
    control(emulator, "faults", [{"operation": "CreateTrainingJob", "kind": "drop"}])
    with pytest.raises(ConnectionClosedError):
        sm.create_training_job(**job("never", ""))
    with pytest.raises(ClientError, match="Requested resource not found"):
        sm.describe_training_job(TrainingJobName="never")
    retrying = client(emulator, "sagemaker", retries={"total_max_attempts": 3, "mode": "standard"})
    control(emulator, "faults", [{"operation": "CreateTrainingJob", "kind": "throttle", "times": 2}])
    retrying.create_training_job(**job("retried", ""))
    assert control(emulator, "requests")["CreateTrainingJob"] == 2


def test_a_request_may_hang(emulator: Emulator) -> None:
    control(emulator, "faults", [{"operation": "ListTrainingJobs", "kind": "timeout", "seconds": 5}])
    with pytest.raises(ReadTimeoutError):
        client(emulator, "sagemaker", read_timeout=0.3).list_training_jobs()


@pytest.mark.parametrize(
    ("what", "given", "message"),
    [
        ("faults", {"operation": "*", "kind": "magic"}, "kind=magic: choose from throttle"),
        ("faults", {"op": "*"}, "unexpected keyword argument 'op'"),
        ("interruptions", {"job": "(", "log": "x"}, "not a regex"),
        ("faults", {"operation": "*", "kind": "error", "times": "2"}, "times='2': it must be int"),
        ("interruptions", {"job": "x", "log": 5}, "log=5: it must be str"),
        ("magic", {}, "choose from faults, interruptions, quotas, requests"),
    ],
)
def test_wrong_control_is_refused(emulator: Emulator, what: str, given: object, message: str) -> None:
    answer = urllib3.request("POST", f"{emulator.url}/_emulator/{what}", json=given)
    assert answer.status >= 400
    assert message in json.loads(answer.data)["message"]


def test_jobs_and_logs_survive_a_restart_and_running_jobs_fail(tmp_path: Path) -> None:
    settings = Settings(images={"/sagehound:": {"train": TRAIN}}, grace=1)
    with Emulator(tmp_path, settings=settings) as emulator:
        client(emulator, "s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
        )
        sm = client(emulator, "sagemaker")
        sm.create_training_job(**job("done", "print('hello'); print('')", Tags=[{"Key": "k", "Value": "v"}]))
        before = ended(sm, "done")
        europe = boto3.client("sagemaker", region_name="eu-west-1", endpoint_url=emulator.url, **KEYS)
        europe.create_model_package_group(ModelPackageGroupName="dogs")
        marker = {"MARKER": str(tmp_path)}
        sm.create_training_job(**job("running", "print('here'); time.sleep(600)", Environment=marker))
        until(lambda: log_of(emulator, "running"), bool)
        assert processes(str(tmp_path))
    assert not processes(str(tmp_path)), "the job ended with the emulator"
    with Emulator(tmp_path, settings=settings) as emulator:
        sm = client(emulator, "sagemaker")
        after = sm.describe_training_job(TrainingJobName="done")
        assert {k: v for k, v in after.items() if k != "ResponseMetadata"} == {
            k: v for k, v in before.items() if k != "ResponseMetadata"
        }
        assert log_of(emulator, "done") == ["hello", " "]
        europe = boto3.client("sagemaker", region_name="eu-west-1", endpoint_url=emulator.url, **KEYS)
        (group,) = europe.list_model_package_groups()["ModelPackageGroupSummaryList"]
        assert group["ModelPackageGroupArn"].startswith("arn:aws:sagemaker:eu-west-1:")
        assert sm.list_tags(ResourceArn=after["TrainingJobArn"])["Tags"] == [{"Key": "k", "Value": "v"}]
        found = sm.describe_training_job(TrainingJobName="running")
        assert (found["TrainingJobStatus"], found["FailureReason"]) == (
            "Failed",
            "InternalServerError: the emulator was stopped",
        )


def test_what_a_killed_emulator_left_half_written_does_not_keep_the_next_from_starting(tmp_path: Path) -> None:
    logs = tmp_path / "logs/%2Faws%2Fsagemaker%2FTrainingJobs"
    logs.mkdir(parents=True)
    now = int(time.time() * 1000)
    stream = '["/aws/sagemaker/TrainingJobs", "half/1"]\n'
    (logs / "half%2F1.jsonl").write_text(f'{stream}[{now + 1}, "b"]\n[{now}, "a, of a slower thread"]\n[{now}, "c')
    (logs / "none%2F1.jsonl").write_text("")
    (tmp_path / "records/model").mkdir(parents=True)
    (tmp_path / "records/model/.m.json.1.tmp").write_text('{"ModelName": "m", "Mo')
    for folder in ("temporary", "transform-jobs/t/ml", "processing-jobs/p/ml", "jobs/j/ml"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "large").write_bytes(b"x")
    for name in ("first", "second"):
        with Emulator(tmp_path, settings=Settings(images={"/sagehound:": {"train": TRAIN}})) as emulator:
            assert log_of(emulator, "half") == ["a, of a slower thread", "b"]
            if name == "first":
                location = {"LocationConstraint": "us-west-2"}
                client(emulator, "s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)
            client(emulator, "sagemaker").create_training_job(**job(name, "print('x')"))
            ended(client(emulator, "sagemaker"), name)
    assert not list(tmp_path.rglob("large"))
    assert not list(tmp_path.rglob("*.tmp"))
    assert [p.name.partition("%2F")[0] for p in sorted(logs.iterdir())] == ["first", "half", "second"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
def test_a_body_that_is_no_request_is_refused(emulator: Emulator, body: bytes) -> None:
    answer = urllib3.request("POST", emulator.url, body=body, headers={"X-Amz-Target": "SageMaker.ListTrainingJobs"})
    assert (answer.status, json.loads(answer.data)["__type"]) == (400, "SerializationException")


def test_an_object_may_have_the_name_of_an_invocation(s3: Client, emulator: Emulator) -> None:
    s3.create_bucket(Bucket="endpoints", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    s3.put_object(Bucket="endpoints", Key="x/invocations", Body=b"mine")
    assert s3.get_object(Bucket="endpoints", Key="x/invocations")["Body"].read() == b"mine"


def start(folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], dict[str, str]]:
    command = [sys.executable, "-m", "sagemaker_emulator", "--folder", str(folder), *arguments]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    until(lambda: (folder / "address.json").exists() or process.poll() is not None, bool)
    assert process.stdout is not None
    if process.poll() is not None:
        return process, {}
    assert 'eval "$(sagemaker-emulator env' in process.stdout.readline() + process.stdout.readline()
    return process, {"AWS_ENDPOINT_URL": json.loads((folder / "address.json").read_text())["url"]}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGHUP", "stdin"])
def test_the_command_ends_with_its_terminal_or_with_the_program_that_started_it(tmp_path: Path, how: str) -> None:
    process, _ = start(tmp_path / "e", "--end-with-stdin")
    assert process.stdin is not None
    process.stdin.close() if how == "stdin" else process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 0
    assert not (tmp_path / "e/address.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs tgkill")
def test_a_signal_that_another_thread_takes_ends_the_command(tmp_path: Path) -> None:
    process, _ = start(tmp_path / "e")
    threads = [int(path.name) for path in Path(f"/proc/{process.pid}/task").iterdir()]
    other = next(thread for thread in threads if thread != process.pid)
    assert ctypes.CDLL(None).tgkill(process.pid, other, int(signal.SIGTERM)) == 0
    assert process.wait(10) == 0


@pytest.mark.slow
def test_the_command_says_what_a_shell_needs_and_ends_cleanly(tmp_path: Path) -> None:
    process, exports = start(tmp_path / "e")
    address = json.loads((tmp_path / "e/address.json").read_text())
    assert address == {"url": exports["AWS_ENDPOINT_URL"], "pid": process.pid, "region": "us-west-2"}
    # as SageMaker's SDKs do it
    sts = "boto3.client('sts', endpoint_url='https://sts.us-west-2.amazonaws.com').get_caller_identity()['Arn']"
    code = f"import boto3; print({sts})"
    shell = f'eval "$({sys.executable} -m sagemaker_emulator env --folder {tmp_path}/e)"; {sys.executable} -c "{code}"'
    said = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=os.environ)
    assert said.stdout.strip() == "arn:aws:sts::123456789012:assumed-role/SageMakerRole/emulator", said.stderr
    second = subprocess.run(
        [sys.executable, "-m", "sagemaker_emulator", "--folder", str(tmp_path / "e")],
        capture_output=True,
        text=True,
    )
    assert second.returncode == 1
    assert "another emulator has this folder" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert not (tmp_path / "e/address.json").exists()


def test_jobs_do_not_outlive_an_emulator_that_is_killed(tmp_path: Path) -> None:
    process, exports = start(tmp_path / "e")

    class Address:
        url = exports["AWS_ENDPOINT_URL"]

    sm, s3 = client(Address, "sagemaker"), client(Address, "s3")  # type: ignore[arg-type]
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    request = job("orphan", "", Environment={"MARKER": str(tmp_path)})
    script = "echo here; trap '' TERM; setsid sleep 600 & sleep 600; true"
    request["AlgorithmSpecification"]["ContainerEntrypoint"] = ["bash", "-c", script]
    sm.create_training_job(**request)
    until(lambda: log_of(Address, "orphan"), bool)  # type: ignore[arg-type]
    assert processes(str(tmp_path))
    process.kill()
    process.wait()
    until(lambda: processes(str(tmp_path)), lambda left: not left, 2)
    with Emulator(tmp_path / "e") as emulator:
        found = client(emulator, "sagemaker").describe_training_job(TrainingJobName="orphan")
        assert found["FailureReason"] == "InternalServerError: the emulator was stopped"
        assert log_of(emulator, "orphan") == ["here"]
        assert not (tmp_path / "e/jobs").exists()


def test_conformance_lists_every_operation_with_its_state(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sagemaker_emulator", "conformance"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    lines, numbers = (part.splitlines() for part in said.stdout.split("\n\n"))
    states = {operation: (state, service) for state, service, operation in map(str.split, lines)}
    assert len(states) == len(lines) == len(service_model("sagemaker").operation_names) + 3
    assert states["CreateTrainingJob"] == ("executed", "sagemaker")
    assert states["InvokeEndpoint"] == ("executed", "sagemaker-runtime")
    assert states["CreateModelPackage"] == ("kept", "sagemaker")
    assert states["InvokeEndpointWithResponseStream"] == ("refused", "sagemaker-runtime")
    assert sum(int(line.split()[0]) for line in numbers) == len(lines)
    assert not list(tmp_path.iterdir()), "it leaves nothing"


def test_a_taken_port_is_one_line(tmp_path: Path, emulator: Emulator) -> None:
    port = emulator.url.rpartition(":")[2]
    process, _ = start(tmp_path / "other", "--port", port)
    assert process.wait(20) == 1
    assert process.stdout is not None
    assert f"port={port} cannot be listened on" in process.stdout.read()


def test_the_address_survives_a_restart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An open shell or notebook keeps the address in its environment."""
    with Emulator(tmp_path / "e") as first:
        sm, port = client(first, "sagemaker", retries={"total_max_attempts": 2}), int(first.url.rpartition(":")[2])
        assert sm.list_models()["Models"] == []
    with Emulator(tmp_path / "e") as second:
        assert second.url == first.url
        sm.create_model_package_group(ModelPackageGroupName="dogs")
        fresh = client(second, "sagemaker").list_model_package_groups()["ModelPackageGroupSummaryList"]
        assert [group["ModelPackageGroupName"] for group in fresh] == ["dogs"], "not by a connection to the first"
    with socket.create_server(("127.0.0.1", port)):
        assert capsys.readouterr().err == ""
        with Emulator(tmp_path / "e") as third:
            assert third.url != first.url
        assert f"port {port} is in use now, so the address is a new one" in capsys.readouterr().err


def test_one_emulator_a_process(emulator: Emulator, tmp_path: Path) -> None:
    with pytest.raises(EmulatorError, match="an emulator runs in this process already"), Emulator(tmp_path / "b"):
        pass


def test_the_package_is_imported_without_moto() -> None:
    code = "import sys, sagemaker_emulator, sagemaker_emulator.settings; print('moto' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
