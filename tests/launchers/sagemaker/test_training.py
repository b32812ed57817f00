"""`python launch.py trainer=sagemaker`: jobs that really run, in the emulator, and what comes back."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulator_helpers import client, processes, until
from helpers import ROOT, Command, small, small_all

from sagemaker_emulator.server import Emulator

REMOTE = ["trainer=sagemaker", "aws=emulator", "hydra.sweep.dir=sweep", "hydra.run.dir=sweep"]
Control = Callable[..., Any]


def jobs(emulator: Emulator) -> list[dict[str, Any]]:
    found = client(emulator, "sagemaker").list_training_jobs(MaxResults=100)
    return list(found["TrainingJobSummaries"])


@pytest.mark.slow
def test_a_sweep_runs_remotely_and_reads_like_a_local_one(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, emulator: Emulator
) -> None:
    given = [*small_all(photos, weights), "finetune=full", "optimizer.lr=0.01,0.02", "aws.max_parallel_jobs=2"]
    done = launch("-m", *given, *REMOTE)
    assert done.returncode == 0, done.stderr + done.stdout
    for number, lr in enumerate(("0.01", "0.02")):
        folder = tmp_path / f"sweep/{number}"
        metrics = json.loads((folder / "metrics.json").read_text())
        assert f"{number}| valid accuracy: {metrics['valid']['top1']:.1%}" in done.stdout, "its log is followed"
        assert list(folder.glob("tensorboard/events*"))
        job = json.loads((folder / "job.json").read_text())
        assert job["request"]["HyperParameters"]["optimizer.lr"] == lr
        assert "data.root" not in job["request"]["HyperParameters"]
        assert f"optimizer.lr={lr}" in (folder / "overrides.yaml").read_text()
    assert "metric: " not in done.stdout, "lines for the service alone"
    local = launch(*small(photos, weights), "finetune=full", "optimizer.lr=0.01", "hydra.run.dir=local")
    assert local.returncode == 0, local.stderr
    here, there = (json.loads((tmp_path / f / "metrics.json").read_text()) for f in ("local", "sweep/0"))
    assert here["test"] == there["test"], "the same numbers there as here"
    again = launch("-m", *given, *REMOTE, "dry_run=true", "hydra.sweep.dir=dry")
    assert again.returncode == 0, again.stderr
    assert len(jobs(emulator)) == 2, "nothing was started"
    request = json.loads((tmp_path / "dry/1/request.json").read_text())
    assert request["HyperParameters"]["optimizer.lr"] == "0.02"


@pytest.mark.slow
def test_photos_are_sent_once(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, emulator: Emulator, control: Control
) -> None:
    given = [*small(photos, weights), *REMOTE, "trainer.max_epochs=1"]
    assert launch(*given).returncode == 0
    sent = control("requests")["s3:PutObject"]
    control("quotas", {"ml.m5.large": 0})  # so that the second job is refused after its photos are sent
    refused = launch(*given, "hydra.run.dir=again", "aws.patience_minutes=0")
    assert (refused.returncode, "quota" in refused.stderr) == (2, True), refused.stderr
    assert "photos" in (tmp_path / "again/request.json").read_text()
    assert control("requests")["s3:PutObject"] == sent
    control("quotas", {"ml.m5.large": 5})
    s3 = client(emulator, "s3")
    bucket = s3.list_buckets()["Buckets"][0]["Name"]
    for file in photos.rglob("*.jpg"):
        s3.upload_file(str(file), bucket, f"dogs/{file.relative_to(photos)}")
    small_data = [o for o in given if not o.startswith("data.root=")]
    done = launch(*small_data, f"data.s3=s3://{bucket}/dogs", "aws.input_mode=FastFile", "hydra.run.dir=there")
    assert done.returncode == 0, done.stderr
    assert "Sending" not in done.stdout
    request = json.loads((tmp_path / "there/request.json").read_text())
    (channel,) = [c for c in request["InputDataConfig"] if c["ChannelName"] == "photos"]
    assert channel["InputMode"] == "FastFile"
    assert channel["DataSource"]["S3DataSource"]["S3Uri"] == f"s3://{bucket}/dogs/"
    first, third = (json.loads((tmp_path / f / "metrics.json").read_text())["test"] for f in ("sweep", "there"))
    assert first == third
    nothing = launch(*small_data, f"data.s3=s3://{bucket}/cats")
    assert nothing.returncode == 3
    assert f"data.s3=s3://{bucket}/cats: nothing is there" in nothing.stderr


@pytest.mark.slow
def test_a_spot_interruption_changes_nothing_but_the_time(
    launch: Command,
    command: Command,
    photos: Path,
    weights: Path,
    tmp_path: Path,
    emulator: Emulator,
    control: Control,
) -> None:
    given = [*small(photos, weights), "finetune=full", "trainer.max_epochs=4"]
    whole = command(*given, "hydra.run.dir=whole")  # here: a job that is not interrupted has the same numbers
    assert whole.returncode == 0, whole.stderr
    control("interruptions", [{"job": ".*", "log": "epoch 2/4"}])
    done = launch(*given, *REMOTE, "aws.spot=true", "hydra.run.dir=stopped")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "resuming from" in done.stdout
    assert done.stdout.count("epoch 1/4") == 1
    name = json.loads((tmp_path / "stopped/job.json").read_text())["TrainingJobName"]
    found = client(emulator, "sagemaker").describe_training_job(TrainingJobName=name)
    assert "Interrupted" in [t["Status"] for t in found["SecondaryStatusTransitions"]]
    first, second = (json.loads((tmp_path / f / "metrics.json").read_text()) for f in ("whole", "stopped"))
    for key in ("train", "valid", "test", "best_epoch"):
        assert first[key] == second[key]


@pytest.mark.slow
def test_two_instances_train_one_model(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, emulator: Emulator
) -> None:
    done = launch(*small(photos, weights), *REMOTE, "finetune=full", "aws.instance_count=2")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "machine 1 of 2" in done.stdout
    assert "machine 2 of 2" in done.stdout
    assert len(re.findall(r"epoch \d/2", done.stdout)) == 2, "only one machine prints epochs"
    assert done.stdout.count("test accuracy: ") == 1, "only one tests the model"
    assert json.loads((tmp_path / "sweep/metrics.json").read_text())["test"]["photos"] == 12


@pytest.mark.slow
def test_a_job_that_fails_says_why(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, emulator: Emulator
) -> None:
    contents = {photo: photo.read_bytes() for photo in photos.rglob("*.jpg")}
    for photo in contents:
        photo.write_bytes(b"no photo")
    done = launch(*small(photos, weights), *REMOTE)
    assert done.returncode == 4, done.stderr
    hydras, line = done.stderr.splitlines()
    assert hydras.startswith("Error executing job with overrides: "), "Hydra's own, which names the job of a sweep"
    assert "(AlgorithmError)" in line
    assert "no usable photo is left" in line
    failed = json.loads((tmp_path / "sweep/job.json").read_text())
    assert failed["TrainingJobStatus"] == "Failed"
    for photo, content in contents.items():
        photo.write_bytes(content)
    again = launch(*small(photos, weights), *REMOTE)
    assert again.returncode == 0, again.stderr
    assert "Failed: " in again.stdout
    assert "; another one is started" in again.stdout
    job = json.loads((tmp_path / "sweep/job.json").read_text())
    assert (job["TrainingJobStatus"], job["replaces"]) == ("Completed", [failed["TrainingJobName"]])


FAULTS = [
    ("throttle", False),
    ("error", False),
    ("drop", False),
    ("drop", True),
    ("error", True),
]  # one after the other


@pytest.mark.slow
def test_faults_are_survived_and_nothing_is_started_twice(
    launch: Command, photos: Path, weights: Path, emulator: Emulator, control: Control
) -> None:
    operations = ("CreateTrainingJob", "DescribeTrainingJob", "s3:PutObject")
    faults = [{"operation": o, "kind": kind, "after": after} for o in operations for kind, after in FAULTS]
    control("faults", faults)
    done = launch(*small(photos, weights), *REMOTE, "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    assert [j["TrainingJobStatus"] for j in jobs(emulator)] == ["Completed"]
    assert control("faults") == [], "all were met"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"operation": "CreateTrainingJob", "kind": "throttle", "times": 99}, "ThrottlingException"),
        ({"operation": "CreateTrainingJob", "kind": "expired_token", "times": 99}, "the credentials have expired"),
        ({"operation": "s3:PutObject", "kind": "error", "times": 99}, ""),
    ],
)
@pytest.mark.slow
def test_what_does_not_pass_ends_in_one_line(
    launch: Command,
    photos: Path,
    weights: Path,
    emulator: Emulator,
    control: Control,
    fault: dict[str, Any],
    message: str,
) -> None:
    control("faults", [fault])
    done = launch(*small(photos, weights), *REMOTE)
    assert done.returncode in (1, 2), done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert jobs(emulator) == []


@pytest.mark.slow
def test_a_quota_is_named(launch: Command, photos: Path, weights: Path, emulator: Emulator, control: Control) -> None:
    control("quotas", {"ml.g5.2xlarge": 0})
    done = launch(*small(photos, weights), *REMOTE, "aws.instance_type=ml.g5.2xlarge")
    assert done.returncode == 2
    assert "the account's quota is too small" in done.stderr
    assert "Service Quotas" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_jobs_of_a_sweep_wait_for_quota_that_others_use(
    launch: Command, photos: Path, weights: Path, emulator: Emulator, control: Control
) -> None:
    control("quotas", {"ml.m5.large": 1})
    given = [*small_all(photos, weights), *REMOTE, "aws.instance_type=ml.m5.large", "trainer.max_epochs=1"]
    done = launch("-m", *given, "seed=1,2", "aws.max_parallel_jobs=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("waits at most 60 minutes: the quota of ml.m5.large is in use") == 1
    assert [j["TrainingJobStatus"] for j in jobs(emulator)] == ["Completed", "Completed"]


@pytest.mark.slow
def test_an_emulator_ends_with_its_command_however_that_ends(photos: Path, weights: Path, tmp_path: Path) -> None:
    given = [*small(photos, weights), *REMOTE, "finetune=full", "trainer.max_epochs=400"]
    process = subprocess.Popen([sys.executable, str(ROOT / "launch.py"), *given], cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"epoch 1/400"):
            break
    marker = os.environ["SAGEHOUND_CACHE"]
    assert len(processes(marker)) >= 3, "the command, its emulator and a job"
    process.kill()
    process.communicate()
    until(lambda: processes(marker), lambda left: not left)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [False, True])
def test_ctrl_c_stops_jobs_only_if_asked(
    photos: Path, weights: Path, tmp_path: Path, emulator: Emulator, asked: bool
) -> None:
    given = [*small(photos, weights), *REMOTE, "finetune=full", "trainer.max_epochs=400"]
    command = [sys.executable, str(ROOT / "launch.py"), *given, f"aws.stop_on_interrupt={str(asked).lower()}"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/400"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    (job,) = jobs(emulator)
    assert len(errors.splitlines()) == 1
    if asked:
        assert "are being stopped" in errors
        waiter = client(emulator, "sagemaker").get_waiter("training_job_completed_or_stopped")
        waiter.wait(TrainingJobName=job["TrainingJobName"], WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        assert jobs(emulator)[0]["TrainingJobStatus"] == "Stopped"
    else:
        assert re.search(
            rf"still on SageMaker: {job['TrainingJobName']}; the same command with hydra.run.dir=sweep", errors
        )
        assert job["TrainingJobStatus"] == "InProgress"
        client(emulator, "sagemaker").stop_training_job(TrainingJobName=job["TrainingJobName"])
        again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert f"following the job {job['TrainingJobName']} again" in again.stdout
        assert again.returncode == 4, again.stderr
        assert "Stopped" in again.stderr
        assert len(jobs(emulator)) == 1, "nothing was started a second time"


@pytest.mark.slow
def test_a_job_that_ran_out_of_time_leaves_its_checkpoint(
    launch: Command, command: Command, photos: Path, weights: Path, tmp_path: Path, emulator: Emulator
) -> None:
    given = [*small(photos, weights), "finetune=full", "trainer.max_epochs=2000"]
    done = launch(*given, *REMOTE, "aws.max_hours=0.005")
    assert done.returncode == 4, done.stderr
    assert "MaxRuntimeExceeded" in done.stderr
    last = tmp_path / "sweep/checkpoints/last.ckpt"
    fewer = command(f"resume={last}", *given[:-1], "trainer.max_epochs=1")
    assert fewer.returncode == 2
    assert "the run that is resumed is in epoch" in fewer.stderr
    epoch = int(re.findall(r"is in epoch (\d+)", fewer.stderr)[0])
    resumed = command("resume=sweep", f"trainer.max_epochs={epoch + 1}")
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 1/" not in resumed.stdout, "it has trained so far already"
    assert f"epoch {epoch + 1}/{epoch + 1}" in resumed.stdout


@pytest.mark.slow
@pytest.mark.parametrize("asked", [True, False])
def test_jobs_that_are_being_started_are_not_forgotten(
    photos: Path, weights: Path, tmp_path: Path, emulator: Emulator, control: Control, asked: bool
) -> None:
    given = [*small_all(photos, weights), *REMOTE, "finetune=full", "trainer.max_epochs=400"]
    lrs = "optimizer.lr=0.01,0.02,0.03,0.04"
    control("faults", [{"operation": "CreateTrainingJob", "kind": "timeout", "seconds": 4, "after": True, "times": 2}])
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *given, lrs, "aws.max_parallel_jobs=2"]
    process = subprocess.Popen(
        [*command, f"aws.stop_on_interrupt={str(asked).lower()}"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while control("requests").get("CreateTrainingJob", 0) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors
    found = jobs(emulator)
    assert len(found) == 2, "and none is begun after it"
    if asked:
        assert {j["TrainingJobStatus"] for j in found} <= {"Stopping", "Stopped"}
    else:
        assert all(j["TrainingJobName"] in errors for j in found)


@pytest.mark.slow
def test_weights_in_s3_are_copied_for_the_job(
    launch: Command, photos: Path, weights: Path, tmp_path: Path, emulator: Emulator
) -> None:
    s3 = client(emulator, "s3")
    s3.create_bucket(Bucket="kennel", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    s3.upload_file(str(weights), "kennel", "w.safetensors")
    remote = [*small(photos, weights), "trainer=sagemaker", "aws=emulator", "dry_run=true", "hydra.run.dir=dry"]
    done = launch(*remote, "backbone.weights=s3://kennel/w.safetensors")
    assert done.returncode == 0, done.stderr
    assert (
        f"/weights/{hashlib.sha256(weights.read_bytes()).hexdigest()}/" in (tmp_path / "dry/request.json").read_text()
    )
    missing = launch(*remote, "overwrite=true", "backbone.weights=s3://kennel/none.safetensors")
    assert missing.returncode != 0
    assert "backbone.weights=s3://kennel/none.safetensors" in missing.stderr
    assert missing.stderr.count("\n") == 1
