"""Processing jobs, run for real."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulator_helpers import BUCKET, ENDED, HOSTS, ROLE, Client, client, content, control, keys, log_of, until
from hosting_helpers import TINY, hosting

from sagemaker_emulator.server import Emulator

LOGS = "/aws/sagemaker/ProcessingJobs"
START = (
    "import json, os, signal, sys, time\nfrom pathlib import Path\nml = Path(os.environ['SAGEMAKER_EMULATOR_OPT_ML'])\n"
    "out = ml / 'processing/out'\n"
)


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    with hosting(tmp_path / "emulator", sync=0.1) as running:
        yield running


def source(name: str, uri: str, **more: str) -> dict[str, Any]:
    given = {"S3Uri": f"s3://{BUCKET}/{uri}", "LocalPath": f"/opt/ml/processing/{name}", "S3DataType": "S3Prefix"}
    return {"InputName": name, "S3Input": given | {"S3InputMode": "File"} | more}


def target(name: str, mode: str = "EndOfJob") -> dict[str, Any]:
    given = {"S3Uri": f"s3://{BUCKET}/{name}", "LocalPath": f"/opt/ml/processing/{name}", "S3UploadMode": mode}
    return {"OutputName": name, "S3Output": given}


def request(
    emulator: Emulator,
    name: str,
    code: str,
    count: int = 1,
    **more: Any,  # noqa: ANN401 - of a request
) -> dict[str, Any]:
    """A request for a job that runs some Python; ``ml`` is its /opt/ml, and ``out`` its first output."""
    script = emulator.folder / f"{name}.py"
    script.write_text(START + code)  # too long for a word of an entrypoint, AWS says
    cluster = {"InstanceType": "ml.m5.large", "InstanceCount": count, "VolumeSizeInGB": 1}
    app = {"ImageUri": TINY, "ContainerEntrypoint": [sys.executable, "-u", str(script)]}
    return {
        "ProcessingJobName": name,
        "ProcessingResources": {"ClusterConfig": cluster},
        "AppSpecification": app | more.pop("app", {}),
        "RoleArn": ROLE,
        "ProcessingOutputConfig": {"Outputs": more.pop("outputs", [target("out")])},
        **more,
    }


def ended(sm: Client, name: str) -> dict[str, Any]:
    found: dict[str, Any] = until(
        lambda: sm.describe_processing_job(ProcessingJobName=name), lambda d: d["ProcessingJobStatus"] in ENDED
    )
    return found


def test_a_job_reads_inputs_runs_and_writes_outputs(emulator: Emulator, sm: Client, s3: Client) -> None:
    s3.put_object(Bucket=BUCKET, Key="data/a/1.txt", Body=b"one")
    s3.put_object(Bucket=BUCKET, Key="data/2.txt", Body=b"two")
    s3.put_object(Bucket=BUCKET, Key="list", Body=json.dumps([{"prefix": f"s3://{BUCKET}/data/"}, "2.txt"]))
    code = """
folder = Path(sys.argv[sys.argv.index('--from') + 1])
found = sorted(p.relative_to(folder).as_posix() + '=' + p.read_text() for p in folder.rglob('*.txt'))
config = json.loads((ml / 'config/processingjobconfig.json').read_text())
assert Path(config['ProcessingInputs'][0]['S3Input']['LocalPath']) == folder
assert json.loads((ml / 'config/resourceconfig.json').read_text())['hosts'] == ['FIRST']
(out / 'sub').mkdir(); (out / 'sub/found').write_text(' '.join(found)); (out / 'mine').write_text(os.environ['MINE'])
(ml / 'processing/picked/x').write_text(str(sorted(p.name for p in (ml / 'processing/one').iterdir())))
(ml / 'output/message').write_text('2 files')
print('done')
"""
    asked = request(
        emulator,
        "first",
        code.replace("FIRST", HOSTS[0]),
        ProcessingInputs=[source("in", "data/"), source("one", "list", S3DataType="ManifestFile")],
        app={"ContainerArguments": ["--from", "/opt/ml/processing/in"]},
        Environment={"MINE": "yes"},
        outputs=[target("out"), target("picked", "Continuous")],
        Tags=[{"Key": "a", "Value": "b"}],
    )
    arn = sm.create_processing_job(**asked)["ProcessingJobArn"]
    assert arn == "arn:aws:sagemaker:us-west-2:123456789012:processing-job/first"
    found = ended(sm, "first")
    assert found["ProcessingJobStatus"] == "Completed", log_of(emulator, "first", LOGS)
    assert found["ExitMessage"] == "2 files"
    assert found["StoppingCondition"] == {"MaxRuntimeInSeconds": 86400}
    assert found["ProcessingStartTime"] <= found["ProcessingEndTime"]
    assert content(s3, "out/sub/found") == b"2.txt=two a/1.txt=one"
    assert content(s3, "out/mine") == b"yes"
    assert content(s3, "picked/x") == b"['2.txt']"
    assert log_of(emulator, "first", LOGS) == ["done"]
    assert sm.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "b"}]
    assert not (emulator.folder / "processing-jobs/first").exists()


def test_a_failed_job_says_so_and_uploads_only_what_is_continuous(emulator: Emulator, sm: Client, s3: Client) -> None:
    code = """
(out / 'half').write_text('x'); (ml / 'processing/live/half').write_text('y')
(ml / 'output/message').write_text('m' * 2000); print('no photos'); sys.exit(4)
"""
    sm.create_processing_job(**request(emulator, "bad", code, outputs=[target("out"), target("live", "Continuous")]))
    found = ended(sm, "bad")
    assert found["ProcessingJobStatus"] == "Failed"
    assert found["FailureReason"] == "AlgorithmError: See job logs for more information"
    assert found["ExitMessage"] == "m" * 1024
    assert (keys(s3, "out/"), keys(s3, "live/")) == ([], ["live/half"])
    assert log_of(emulator, "bad", LOGS) == ["no photos"]


def test_several_instances_share_the_work_and_one_that_fails_fails_the_job(
    emulator: Emulator, sm: Client, s3: Client
) -> None:
    for i in range(3):
        s3.put_object(Bucket=BUCKET, Key=f"data/{i}", Body=b"x")
    inputs = [source("in", "data/", S3DataDistributionType="ShardedByS3Key")]
    code = """
here = json.loads((ml / 'config/resourceconfig.json').read_text())['current_host']
(out / here).write_text(' '.join(sorted(p.name for p in (ml / 'processing/in').iterdir())))
"""
    sm.create_processing_job(**request(emulator, "two", code, count=2, ProcessingInputs=inputs))
    assert ended(sm, "two")["ProcessingJobStatus"] == "Completed"
    assert content(s3, f"out/{HOSTS[0]}") == b"0 2"
    assert content(s3, f"out/{HOSTS[1]}") == b"1"
    ill = code + f"\nif here == {HOSTS[1]!r}: sys.exit(1)\ntime.sleep(600)"
    sm.create_processing_job(**request(emulator, "ill", ill, count=2, ProcessingInputs=inputs))
    assert ended(sm, "ill")["ProcessingJobStatus"] == "Failed"


def test_a_job_ends_when_stopped_or_when_its_time_is_over(emulator: Emulator, sm: Client, s3: Client) -> None:
    code = """
def end(*_): print('ending'); sys.exit(0)
signal.signal(signal.SIGTERM, end)
(out / 'half').write_text('x'); (ml / 'processing/live/x').write_text('y'); print('ready')
while True: time.sleep(0.05)
"""
    outputs = [target("out"), target("live", "Continuous")]
    sm.create_processing_job(**request(emulator, "long", code, outputs=outputs))
    until(lambda: keys(s3, "live/"), lambda found: found == ["live/x"])
    sm.stop_processing_job(ProcessingJobName="long")
    found = ended(sm, "long")
    assert (found["ProcessingJobStatus"], "FailureReason" in found) == ("Stopped", False)
    assert log_of(emulator, "long", LOGS) == ["ready", "ending"]
    assert keys(s3, "out/") == []
    with pytest.raises(ClientError, match="the job is in status Stopped"):
        sm.stop_processing_job(ProcessingJobName="long")
    limit = {"MaxRuntimeInSeconds": 1}
    sm.create_processing_job(**request(emulator, "limited", "time.sleep(600)", StoppingCondition=limit))
    assert ended(sm, "limited")["ProcessingJobStatus"] == "Stopped"


def test_jobs_are_listed_and_survive_a_restart(tmp_path: Path) -> None:
    with hosting(tmp_path / "again") as emulator:
        sm = client(emulator, "sagemaker")
        sm.create_processing_job(**request(emulator, "first", "pass"))
        ended(sm, "first")
        sm.create_processing_job(**request(emulator, "second", "print('on'); time.sleep(600)"))
        until(lambda: log_of(emulator, "second", LOGS), bool)
    with hosting(tmp_path / "again") as emulator:
        sm = client(emulator, "sagemaker")
        found = sm.list_processing_jobs()["ProcessingJobSummaries"]
        assert [(j["ProcessingJobName"], j["ProcessingJobStatus"]) for j in found] == [
            ("first", "Completed"),
            ("second", "Failed"),
        ]
        assert found[1]["FailureReason"] == "InternalServerError: the emulator was stopped"
        assert log_of(emulator, "second", LOGS) == ["on"]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"RoleArn": ROLE + "x"}, "ValidationException", "Could not assume role"),
        (
            {"ProcessingInputs": [source("in", "data/", LocalPath="/opt/ml/input")]},
            "ValidationException",
            "LocalPath must begin with /opt/ml/processing/",
        ),
        ({"ProcessingInputs": [source("in", "data/", S3InputMode="Pipe")]}, "ValidationException", "mode File only"),
        (
            {
                "ProcessingResources": {
                    "ClusterConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 3, "VolumeSizeInGB": 1}
                }
            },
            "ResourceLimitExceeded",
            "'ml.m5.large for processing job usage' is 2 Instances",
        ),
    ],
)
def test_what_aws_refuses_is_refused(
    emulator: Emulator, sm: Client, change: dict[str, Any], code: str, message: str
) -> None:
    control(emulator, "quotas", {"ml.m5.large": 2})
    with pytest.raises(ClientError) as refused:
        sm.create_processing_job(**request(emulator, "refused", "") | change)
    assert refused.value.response["Error"]["Code"] == code
    assert message in str(refused.value)
    assert sm.list_processing_jobs()["ProcessingJobSummaries"] == []


def test_what_cannot_be_started_or_fetched_fails_the_job(emulator: Emulator, sm: Client) -> None:
    app = {"ContainerEntrypoint": ["/no/such/command"]}
    sm.create_processing_job(**request(emulator, "nothing", "", app=app))
    assert "could not be started" in ended(sm, "nothing")["FailureReason"]
    sm.create_processing_job(**request(emulator, "empty", "", ProcessingInputs=[source("in", "none/")]))
    assert "NoSuchKey" in ended(sm, "empty")["FailureReason"]
    nowhere = target("out")
    nowhere["S3Output"]["S3Uri"] = "s3://nowhere/x"
    sm.create_processing_job(**request(emulator, "nowhere", "", outputs=[nowhere]))
    assert "NoSuchBucket" in ended(sm, "nowhere")["FailureReason"]


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
@pytest.mark.parametrize("mode", ["EndOfJob", "Continuous"])
def test_an_output_whose_name_is_not_utf_8_fails_the_job_only(
    emulator: Emulator, sm: Client, s3: Client, mode: str
) -> None:
    code = "(out / 'a').write_text('1'); open(os.fsencode(out) + b'/caf\\xe9', 'w').close(); time.sleep(0.3)"
    sm.create_processing_job(**request(emulator, "odd", code, outputs=[target("out", mode)]))
    failed = ended(sm, "odd")
    assert failed["ProcessingJobStatus"] == "Failed"
    assert failed["FailureReason"] == "ClientError: Data upload failed:the name 'out/caf\\udce9' is not UTF-8"
    assert keys(s3, "") == ["out/a"]


def test_a_name_may_be_used_again_at_once(emulator: Emulator, sm: Client, s3: Client) -> None:
    code = "[(ml / 'processing' / str(i)).touch() for i in range(2500)]; (out / 'NAME').touch()"
    for name in ("first", "second"):  # the folder of the one before is being removed
        sm.create_processing_job(**request(emulator, "again", code.replace("NAME", name)))
        described = ended(sm, "again")
        assert described["ProcessingJobStatus"] == "Completed", described
        sm.delete_processing_job(ProcessingJobName="again")
    assert keys(s3, "out/") == ["out/first", "out/second"]
    until(lambda: list((emulator.folder / "processing-jobs").iterdir()), lambda left: not left)
