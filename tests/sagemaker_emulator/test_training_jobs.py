"""Training jobs of the emulator really run: what they are given, what they leave, and how they end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulator_helpers import (
    BUCKET,
    HOSTS,
    ROLE,
    Client,
    channel,
    client,
    content,
    control,
    ended,
    job,
    keys,
    log_of,
    members,
    processes,
    until,
)

from sagemaker_emulator.server import Emulator


def test_a_job_gets_its_inputs_and_leaves_a_model(emulator: Emulator, sm: Client, s3: Client) -> None:
    s3.put_object(Bucket=BUCKET, Key="data/train/a/1.jpg", Body=b"one")
    s3.put_object(Bucket=BUCKET, Key="data/train/2.jpg", Body=b"two")
    s3.put_object(Bucket=BUCKET, Key="data/list", Body=json.dumps([{"prefix": f"s3://{BUCKET}/data/"}, "train/2.jpg"]))
    code = """
files = {str(p.relative_to(ml / "input")): p.read_text() for p in (ml / "input").rglob("*") if p.is_file()}
print(json.dumps({"files": files, "env": dict(os.environ), "args": sys.argv[1:]}))
(ml / "model/m.bin").write_text("model")
(ml / "output/data/plot.png").write_text("plot")
print("epoch 1 loss=0.5"); print("epoch 2 loss=0.25")
"""
    algorithm = {
        "ContainerArguments": ["--out", "/opt/ml/model"],
        "MetricDefinitions": [{"Name": "valid:loss", "Regex": "loss=([0-9.]+)"}],
    }
    request = job(
        "first",
        code,
        algorithm=algorithm,
        hyperparameters={"epochs": "2"},
        Environment={"MINE": "/opt/ml/code"},
        Tags=[{"Key": "project", "Value": "dogs"}],
        InputDataConfig=[
            channel("train", f"s3://{BUCKET}/data/train"),
            channel("one", f"s3://{BUCKET}/data/list", S3DataType="ManifestFile") | {"InputMode": "FastFile"},
        ],
    )
    arn = sm.create_training_job(**request)["TrainingJobArn"]
    assert arn == "arn:aws:sagemaker:us-west-2:123456789012:training-job/first"
    found = ended(sm, "first")
    assert found["TrainingJobStatus"] == found["SecondaryStatus"] == "Completed", found
    assert [t["Status"] for t in found["SecondaryStatusTransitions"]] == [
        "Starting",
        "Downloading",
        "Training",
        "Uploading",
        "Completed",
    ]
    starts = [t["StartTime"] for t in found["SecondaryStatusTransitions"]]
    ends = [t["EndTime"] for t in found["SecondaryStatusTransitions"]]
    assert ends == [*starts[1:], found["TrainingEndTime"]], "each status ends when the next one starts"
    assert starts[-1] <= ends[-1]
    assert {k: found[k] for k in ("HyperParameters", "RoleArn", "Environment")} == {
        "HyperParameters": {"code": code, "epochs": "2"},
        "RoleArn": ROLE,
        "Environment": {"MINE": "/opt/ml/code"},
    }
    assert [(m["MetricName"], m["Value"]) for m in found["FinalMetricDataList"]] == [("valid:loss", 0.25)]
    assert found["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/out/first/output/model.tar.gz"
    assert members(content(s3, "out/first/output/model.tar.gz")) == {"m.bin": b"model"}
    assert members(content(s3, "out/first/output/output.tar.gz")) == {"plot.png": b"plot"}
    assert found["TrainingTimeInSeconds"] >= found["BillableTimeInSeconds"] >= 1

    said = log_of(emulator, "first")
    assert said[1:] == ["epoch 1 loss=0.5", "epoch 2 loss=0.25"]
    seen = json.loads(said[0])
    files, env = seen["files"], seen["env"]
    assert files["data/train/a/1.jpg"] == "one"
    assert files["data/train/2.jpg"] == files["data/one/train/2.jpg"] == "two"
    assert json.loads(files["config/hyperparameters.json"]) == {"code": code, "epochs": "2"}
    assert json.loads(files["config/inputdataconfig.json"])["one"]["TrainingInputMode"] == "FastFile"
    resources = json.loads(files["config/resourceconfig.json"])
    assert (resources["current_host"], resources["hosts"]) == (HOSTS[0], [HOSTS[0]])
    assert seen["args"] == ["--out", env["SAGEMAKER_EMULATOR_OPT_ML"] + "/model"]
    assert env["MINE"] == env["SAGEMAKER_EMULATOR_OPT_ML"] + "/code"
    assert (env["TRAINING_JOB_NAME"], env["AWS_ENDPOINT_URL"]) == ("first", emulator.url)
    assert "PYTEST_CURRENT_TEST" not in env, "a job sees nothing of the host"
    assert sm.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "project", "Value": "dogs"}]


def test_a_failed_job_says_what_its_failure_file_says(emulator: Emulator, sm: Client) -> None:
    sm.create_training_job(**job("bad", "(ml / 'output/failure').write_text('no photos' * 500); sys.exit(3)"))
    found = ended(sm, "bad")
    assert found["TrainingJobStatus"] == "Failed"
    reason = found["FailureReason"]
    assert reason.startswith("AlgorithmError: no photosno photos")
    assert reason.endswith(", exit code: 3")
    assert len(reason) == 1024
    sm.create_training_job(**job("killed", "os.kill(os.getpid(), signal.SIGKILL)"))
    assert ended(sm, "killed")["FailureReason"] == "AlgorithmError: , exit code: 137"


def test_what_cannot_be_started_is_a_client_error(emulator: Emulator, sm: Client) -> None:
    request = job("nothing", "", algorithm={"ContainerEntrypoint": ["/no/such/command"]})
    sm.create_training_job(**request)
    assert ended(sm, "nothing")["FailureReason"].startswith("ClientError: the container could not be started")
    sm.create_training_job(**job("nowhere", "", OutputDataConfig={"S3OutputPath": "s3://no-such-bucket/x"}))
    assert "NoSuchBucket" in ended(sm, "nowhere")["FailureReason"]


def test_an_object_that_a_manifest_names_wrongly_fails_the_job(emulator: Emulator, sm: Client, s3: Client) -> None:
    s3.put_object(Bucket=BUCKET, Key="list", Body=json.dumps([{"prefix": f"s3://{BUCKET}/data/"}, "gone.jpg"]))
    inputs = [channel("train", f"s3://{BUCKET}/list", S3DataType="ManifestFile")]
    sm.create_training_job(**job("gone", "", InputDataConfig=inputs))
    reason = ended(sm, "gone")["FailureReason"]
    assert reason.startswith("ClientError: Data download failed:NoSuchKey (404)")
    assert "data/gone.jpg" in reason


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"RoleArn": ROLE + "x"}, "ValidationException", f"Could not assume role {ROLE}x. Please ensure"),
        (
            {"EnableManagedSpotTraining": True},
            "ValidationException",
            "Invalid MaxWaitTimeInSeconds. It must be present",
        ),
        (
            {"StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60}},
            "ValidationException",
            "MaxWaitTimeInSeconds above 0 is not supported",
        ),
        (
            {"InputDataConfig": [channel("train", f"s3://{BUCKET}/none/")]},
            "ValidationException",
            f'No S3 objects found under S3 URL "s3://{BUCKET}/none/" given in input data source',
        ),
        ({"TrainingJobName": "a_b"}, "ValidationException", "does not have the form"),
        ({"ResourceConfig": {"InstanceType": "ml.none"}}, "ValidationException", "is none of AWS's values"),
        (
            {"ResourceConfig": {"InstanceType": "ml.p3.2xlarge", "InstanceCount": 1, "VolumeSizeInGB": 1}},
            "ResourceLimitExceeded",
            "The account-level service limit 'ml.p3.2xlarge for training job usage' is 0 Instances, with current "
            "utilization of 0 Instances and a request delta of 1 Instances.",
        ),
        (
            {"CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/c", "LocalPath": "/tmp/c"}},
            "ValidationException",
            "maps only paths under /opt/ml",
        ),
    ],
)
def test_what_aws_refuses_is_refused(
    emulator: Emulator, sm: Client, change: dict[str, Any], code: str, message: str
) -> None:
    control(emulator, "quotas", {"ml.p3.2xlarge": 0})
    with pytest.raises(ClientError) as refused:
        sm.create_training_job(**job("refused", "") | change)
    assert refused.value.response["Error"]["Code"] == code
    assert message in refused.value.response["Error"]["Message"]
    assert sm.list_training_jobs()["TrainingJobSummaries"] == []


def test_a_name_is_taken_once(emulator: Emulator, sm: Client) -> None:
    sm.create_training_job(**job("mine", ""))
    with pytest.raises(ClientError, match=r"ResourceInUse.*must be unique within an AWS account and region"):
        sm.create_training_job(**job("mine", ""))
    with pytest.raises(ClientError, match="Requested resource not found"):
        sm.describe_training_job(TrainingJobName="yours")


def test_logs_and_checkpoints_can_be_followed_and_a_stop_leaves_the_model(
    emulator: Emulator, sm: Client, s3: Client
) -> None:
    code = """
def end(*_):
    (ml / "model/m").write_text("so far"); print("ending"); sys.exit(0)
signal.signal(signal.SIGTERM, end)
(ml / "checkpoints/index.json.tmp").write_text("{"); (ml / "checkpoints/last.ckpt").write_text("1")
(ml / "output/tensors/0.json").write_text("{}")
print("ready")
while True: time.sleep(0.05)
"""
    more = {
        "CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/checkpoints/live"},
        "DebugHookConfig": {"S3OutputPath": f"s3://{BUCKET}/debug"},
        "DebugRuleConfigurations": [{"RuleConfigurationName": "VanishingGradient", "RuleEvaluatorImage": "i"}],
    }
    sm.create_training_job(**job("live", code, **more))
    until(lambda: log_of(emulator, "live"), lambda said: said == ["ready"])
    until(lambda: keys(s3, "checkpoints/live/"), lambda k: k == ["checkpoints/live/last.ckpt"])
    until(lambda: keys(s3, "debug/"), lambda k: k == ["debug/live/debug-output/0.json"])
    running = sm.describe_training_job(TrainingJobName="live")
    assert (running["TrainingJobStatus"], running["SecondaryStatus"]) == ("InProgress", "Training")
    assert running["DebugRuleEvaluationStatuses"][0]["RuleEvaluationStatus"] == "InProgress"
    sm.stop_training_job(TrainingJobName="live")
    found = ended(sm, "live")
    assert (found["TrainingJobStatus"], found["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert members(content(s3, "out/live/output/model.tar.gz")) == {"m": b"so far"}
    assert log_of(emulator, "live") == ["ready", "ending"]
    rule = found["DebugRuleEvaluationStatuses"][0]
    assert rule["RuleEvaluationStatus"] == "Error", "no finding is claimed"
    assert rule["StatusDetails"].startswith("no tensors of gradients")
    with pytest.raises(ClientError, match="the training job is in status Stopped"):
        sm.stop_training_job(TrainingJobName="live")


@pytest.mark.slow
def test_a_job_that_does_not_listen_is_killed_with_all_it_started(sm: Client, tmp_path: Path) -> None:
    code = """
import subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "600"])
time.sleep(600)
"""
    limit, marker = {"MaxRuntimeInSeconds": 1}, {"MARKER": str(tmp_path)}
    sm.create_training_job(**job("deaf", code, StoppingCondition=limit, Environment=marker))
    until(lambda: processes(str(tmp_path)), bool)
    found = ended(sm, "deaf")
    assert (found["TrainingJobStatus"], found["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    until(lambda: processes(str(tmp_path)), lambda left: not left)


def test_several_instances_are_processes_that_know_of_each_other(emulator: Emulator, sm: Client, s3: Client) -> None:
    for i in range(3):
        s3.put_object(Bucket=BUCKET, Key=f"data/{i}", Body=b"x")
    code = """
here = json.loads((ml / "input/config/resourceconfig.json").read_text())
rank = here["hosts"].index(here["current_host"])
import socket
if rank == 0:
    server = socket.create_server((here["current_host"], 45671)); server.settimeout(20)
    peer = server.accept()[0]; print("heard", peer.recv(9).decode())
    (ml / "model/first").write_text(here["current_host"])
else:
    for _ in range(400):
        try:
            socket.create_connection((here["hosts"][0], 45671)).sendall(here["current_host"].encode()); break
        except OSError: time.sleep(0.05)
    (ml / "model/second").write_text("not kept")
print(len(list((ml / "input/data/all").iterdir())), len(list((ml / "input/data/part").iterdir())))
"""
    inputs = [
        channel("all", f"s3://{BUCKET}/data/"),
        channel("part", f"s3://{BUCKET}/data/", S3DataDistributionType="ShardedByS3Key"),
    ]
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 1}
    sm.create_training_job(**job("two", code, ResourceConfig=resources, InputDataConfig=inputs))
    found = ended(sm, "two")
    assert found["TrainingJobStatus"] == "Completed", found
    assert log_of(emulator, "two") == [f"heard {HOSTS[1]}", "3 2", "3 1"]
    assert members(content(s3, "out/two/output/model.tar.gz")) == {"first": HOSTS[0].encode()}


def test_one_instance_that_fails_fails_the_job(emulator: Emulator, sm: Client) -> None:
    code = """
here = json.loads((ml / "input/config/resourceconfig.json").read_text())
if here["current_host"] == here["hosts"][1]:
    (ml / "output/failure").write_text("the second is ill"); sys.exit(7)
time.sleep(600)
"""
    resources = {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 1}
    sm.create_training_job(**job("ill", code, ResourceConfig=resources))
    assert ended(sm, "ill")["FailureReason"] == "AlgorithmError: the second is ill, exit code: 7"


@pytest.mark.slow
def test_a_spot_job_goes_on_from_its_checkpoint_after_an_interruption(
    emulator: Emulator, sm: Client, s3: Client
) -> None:
    code = """
saved = ml / "checkpoints/epoch"
epoch = int(saved.read_text()) if saved.exists() else 0
assert not (ml / "model/left").exists(), "a fresh /opt/ml"
(ml / "model/left").write_text("x")
def end(*_):
    print("saving"); sys.exit(143)
signal.signal(signal.SIGTERM, end)
while epoch < 4:
    epoch += 1
    saved.write_text(str(epoch)); print("epoch", epoch, flush=True); time.sleep(0.3)
"""
    spot = {
        "EnableManagedSpotTraining": True,
        "StoppingCondition": {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 120},
        "CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/ck/spot"},
    }
    control(emulator, "interruptions", {"job": "^spot", "log": "epoch 2"})
    sm.create_training_job(**job("spot", code, **spot))
    sm.create_training_job(**job("other", code, **(spot | {"CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/ck/other"}})))
    found, other = ended(sm, "spot"), ended(sm, "other")
    assert found["TrainingJobStatus"] == "Completed", found
    states = [t["Status"] for t in found["SecondaryStatusTransitions"]]
    started = ["Starting", "Downloading", "Training"]
    assert states == [*started, "Interrupted", *started, "Uploading", "Completed"]
    said = log_of(emulator, "spot")
    assert "saving" in said
    epochs = [int(line.split()[1]) for line in said if line.startswith("epoch")]
    assert epochs == [1, 2, 3, 4], "nothing was trained twice"
    assert content(s3, "ck/spot/epoch") == b"4"
    assert "Interrupted" not in [t["Status"] for t in other["SecondaryStatusTransitions"]]
    assert found["BillableTimeInSeconds"] < found["TrainingTimeInSeconds"]


def test_a_job_says_whether_it_is_profiled(sm: Client) -> None:
    off, on = {"DisableProfiler": True}, {"S3OutputPath": f"s3://{BUCKET}/profile"}
    for name, config, status in (
        ("on", {"ProfilerConfig": on}, "Enabled"),
        ("off", {"ProfilerConfig": off}, "Disabled"),
    ):
        sm.create_training_job(**job(name, "") | config)
        assert ended(sm, name)["ProfilingStatus"] == status
    sm.create_training_job(**job("without", ""))
    assert "ProfilingStatus" not in ended(sm, "without")


PLAN = "arn:aws:sagemaker:us-west-2:123456789012:training-plan/plan"


def test_jobs_are_listed_by_page_name_and_state(emulator: Emulator, sm: Client) -> None:
    for i in range(12):
        sm.create_training_job(**job(f"job-{i:02}", "sys.exit(1)" if i == 3 else ""))
    for i in range(12):
        ended(sm, f"job-{i:02}")
    first = sm.list_training_jobs()
    assert [j["TrainingJobName"] for j in first["TrainingJobSummaries"]] == [f"job-{i:02}" for i in range(10)]
    rest = sm.list_training_jobs(NextToken=first["NextToken"])
    assert [j["TrainingJobName"] for j in rest["TrainingJobSummaries"]] == ["job-10", "job-11"]
    assert "NextToken" not in rest
    failed = sm.list_training_jobs(StatusEquals="Failed")["TrainingJobSummaries"]
    assert [j["TrainingJobName"] for j in failed] == ["job-03"]
    some = sm.list_training_jobs(NameContains="B-1", SortBy="Name", SortOrder="Descending")["TrainingJobSummaries"]
    assert [j["TrainingJobName"] for j in some] == ["job-11", "job-10"]
    for absent in ({"WarmPoolStatusEquals": "Available"}, {"TrainingPlanArnEquals": PLAN}):  # no job has one
        assert sm.list_training_jobs(**absent)["TrainingJobSummaries"] == []
    sm.delete_training_job(TrainingJobName="job-00")
    assert len(sm.list_training_jobs(MaxResults=50)["TrainingJobSummaries"]) == 11


def test_metrics_reach_cloudwatch(emulator: Emulator, sm: Client) -> None:
    definitions = {"MetricDefinitions": [{"Name": "acc", "Regex": "acc=(.*)"}]}
    sm.create_training_job(**job("measured", "print('acc=1'); print('acc=nan'); print('acc=3')", algorithm=definitions))
    assert ended(sm, "measured")["FinalMetricDataList"][0]["Value"] == 3
    found = client(emulator, "cloudwatch").list_metrics(Namespace="/aws/sagemaker/TrainingJobs")["Metrics"]
    assert [(m["MetricName"], m["Dimensions"]) for m in found][-1] == (
        "acc",
        [{"Name": "TrainingJobName", "Value": "measured"}],
    )


def test_a_name_that_is_free_again_begins_anew(emulator: Emulator, sm: Client, s3: Client) -> None:
    for tags in ([{"Key": "k", "Value": "v"}], []):
        sm.create_training_job(**job("again", "print('x')", Tags=tags))
        arn = ended(sm, "again")["TrainingJobArn"]
        assert sm.list_tags(ResourceArn=arn)["Tags"] == tags
        sm.delete_training_job(TrainingJobName="again")


@pytest.mark.parametrize("names", [["a", "a/b"], ["a" * 300]])
def test_objects_that_cannot_be_files_fail_the_job(sm: Client, s3: Client, names: list[str]) -> None:
    for name in names:
        s3.put_object(Bucket=BUCKET, Key=f"odd/{name}", Body=b"x")
    sm.create_training_job(**job("odd", "", InputDataConfig=[channel("train", f"s3://{BUCKET}/odd/")]))
    assert ended(sm, "odd")["FailureReason"].startswith(
        f"ClientError: Data download failed:s3://{BUCKET}/odd/{names[-1]}"
    )


@pytest.mark.slow  # it imports AWS's SDK
def test_aws_s_own_sdk_creates_follows_and_finds_a_job(emulator: Emulator, tmp_path: Path) -> None:
    config = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
    (tmp_path / "sdk.yaml").write_text(json.dumps(config))
    code = "print('epoch 1'); time.sleep(2); print('epoch 2'); (ml / 'model/m').write_text('x')"
    (tmp_path / "request.json").write_text(json.dumps(job("by-sdk", code)))
    script = """
import json, sys
from pathlib import Path
from sagemaker.core.resources import TrainingJob
from sagemaker.core.utils.code_injection.codec import pascal_to_snake
from sagemaker.core.utils.utils import configure_logging
configure_logging("INFO")
def snake(x):
    if isinstance(x, dict):
        return {pascal_to_snake(k): v if k == "HyperParameters" else snake(v) for k, v in x.items()}
    return [snake(v) for v in x] if isinstance(x, list) else x
job = TrainingJob.create(**snake(json.loads(Path("request.json").read_text())))
job.wait(poll=1, logs=True)
found = TrainingJob.get("by-sdk")
print("ENDED", found.training_job_status, found.model_artifacts.s3_model_artifacts)
print("LISTED", [j.training_job_name for j in TrainingJob.get_all(name_contains="sdk")])
"""
    env = {
        "AWS_ENDPOINT_URL": emulator.url,
        "AWS_DEFAULT_REGION": "us-west-2",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAGEMAKER_VALIDATE_ROLE": "false",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(tmp_path / "sdk.yaml"),
    }
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"ENDED Completed s3://{BUCKET}/out/by-sdk/output/model.tar.gz" in done.stdout
    assert "LISTED ['by-sdk']" in done.stdout
    said = done.stdout + done.stderr
    assert "epoch 1" in said
    assert "epoch 2" in said


def test_a_regex_that_takes_for_ever_leaves_the_other_metrics_and_the_emulator(emulator: Emulator, sm: Client) -> None:
    regexes = {"before": "before=([0-9.]+)", "slow": "(a+)+$", "after": "after=([0-9.]+)"}
    metrics = {"MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in regexes.items()]}
    code = f"print('before=1 after=2 {'a' * 28}!'); print('before=3'); print('after=4')"
    sm.create_training_job(**job("slow", code, algorithm=metrics))
    found = ended(sm, "slow")
    assert found["TrainingJobStatus"] == "Completed", found.get("FailureReason")
    assert "FinalMetricDataList" in found, log_of(emulator, "slow")
    final = {m["MetricName"]: m["Value"] for m in found["FinalMetricDataList"]}
    assert final == {"before": 3, "after": 4}
    notes = [line for line in log_of(emulator, "slow") if "the metric slow is read no more" in line]
    assert len(notes) == 1
