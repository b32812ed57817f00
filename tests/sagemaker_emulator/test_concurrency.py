"""Two emulators under load at the same time lose no update; one that is killed leaves no process and no half record."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from emulator_helpers import BUCKET, TRAIN, Client, client, control, job, log_of, processes, until
from hosting_helpers import SERVE, invoke, make_endpoint, make_model, variant

SWEEPS, TRIALS, CALLS, AT_ONCE = 6, 3, 100, 50  # at once: for each of two emulators


@dataclass
class Running:
    """An emulator in a process of its own, as its users run it."""

    url: str
    folder: Path
    process: "subprocess.Popen[bytes]"

    @property
    def sm(self) -> Client:
        return client(self, "sagemaker", max_pool_connections=AT_ONCE)  # type: ignore[arg-type] # its url is used


@contextmanager
def emulator(folder: Path) -> Iterator[Running]:
    for verb, command in (("train", TRAIN), ("serve", SERVE)):
        program = folder / "image/bin" / verb
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\nexec {shlex.join(command)}\n")
        program.chmod(0o755)
    arguments = ["--folder", str(folder / "state"), "--grace", "2", "--image", f".*={folder / 'image'}"]
    address = folder / "state/address.json"
    address.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, "-m", "sagemaker_emulator", *arguments], stdout=subprocess.DEVNULL)
    try:
        until(address.exists, bool)
        yield Running(json.loads(address.read_text())["url"], folder / "state", process)
    finally:
        process.terminate()
        process.wait(60)


def tuning(name: str, marker: str, code: str) -> dict[str, Any]:
    definition = {k: v for k, v in job("x", code).items() if k != "TrainingJobName"}
    definition["StaticHyperParameters"] = definition.pop("HyperParameters")
    definition["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "loss", "Regex": "loss=(.+)"}]
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {
            "Strategy": "Random",
            "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "loss"},
            "ResourceLimits": {"MaxParallelTrainingJobs": TRIALS, "MaxNumberOfTrainingJobs": TRIALS},
            "ParameterRanges": {
                "ContinuousParameterRanges": [{"Name": "x", "MinValue": "0", "MaxValue": "1"}],
            },
        },
        "TrainingJobDefinition": definition | {"Environment": {"MARKER": marker}},
    }


def at_once(function: Callable[[int], Any], count: int) -> list[Any]:
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(function, range(count)))


def load(running: Running, name: str) -> None:
    """Half of the sweeps and calls, beside changes of one resource by many clients; then counts."""
    sm = running.sm
    client(running, "s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})  # type: ignore[arg-type]
    make_model(running, name)  # type: ignore[arg-type]
    assert make_endpoint(running, name, variant(name))["EndpointStatus"] == "InService"  # type: ignore[arg-type]
    group = sm.create_model_package_group(ModelPackageGroupName=name)["ModelPackageGroupArn"]
    score = "print('loss=' + hyperparameters['x'])"
    for number in range(SWEEPS // 2):
        sm.create_hyper_parameter_tuning_job(**tuning(f"{name}-{number}", name, score))

    def use(number: int) -> tuple[int, str, str]:
        sm.add_tags(ResourceArn=group, Tags=[{"Key": str(number), "Value": name}])
        arn = sm.create_model_package(ModelPackageGroupName=name)["ModelPackageArn"]
        said = invoke(running, name, b"%d" % number)  # type: ignore[arg-type]
        return int(arn.rpartition("/")[2]), said["model"], said["body"]

    done = at_once(use, CALLS // 2)
    assert sorted(version for version, _, _ in done) == list(range(1, CALLS // 2 + 1)), "no version twice"
    assert [(model, body) for _, model, body in done] == [(name, str(i)) for i in range(CALLS // 2)]
    assert len(sm.list_tags(ResourceArn=group)["Tags"]) == CALLS // 2
    assert control(running, "requests")["InvokeEndpoint"] == CALLS // 2  # type: ignore[arg-type]
    for number in range(SWEEPS // 2):
        asked = {"HyperParameterTuningJobName": f"{name}-{number}"}
        found = until(
            lambda asked=asked: sm.describe_hyper_parameter_tuning_job(**asked),
            lambda d: d["HyperParameterTuningJobStatus"] != "InProgress",
            60,
        )
        assert found["HyperParameterTuningJobStatus"] == "Completed", found
        assert found["TrainingJobStatusCounters"]["Completed"] == TRIALS
        assert found["ObjectiveStatusCounters"] == {"Succeeded": TRIALS, "Pending": 0, "Failed": 0}
        jobs = sm.list_training_jobs_for_hyper_parameter_tuning_job(**asked)["TrainingJobSummaries"]
        values = [j["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for j in jobs]
        best = found["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
        assert best == min(values)
        for one in jobs:
            (line,) = log_of(running, one["TrainingJobName"])  # type: ignore[arg-type]
            assert float(line.removeprefix("loss=")) == pytest.approx(float(one["TunedHyperParameters"]["x"]))


@pytest.mark.slow
def test_two_emulators_under_load_lose_nothing_and_a_killed_one_leaves_nothing(tmp_path: Path) -> None:
    with emulator(tmp_path / "one") as one, emulator(tmp_path / "two") as two, ThreadPoolExecutor(2) as threads:
        for loaded in [threads.submit(load, one, "one"), threads.submit(load, two, "two")]:
            loaded.result()

        marker, code = str(tmp_path), "print('here'); time.sleep(600)"
        one.sm.create_training_job(**job("running", code, Environment={"MARKER": marker}))
        one.sm.create_hyper_parameter_tuning_job(**tuning("running", marker, code))
        make_model(one, "running", MARKER=marker)  # type: ignore[arg-type]
        make_endpoint(one, "running", variant("running"))  # type: ignore[arg-type]
        until(lambda: len(processes(marker)), lambda number: number >= TRIALS + 2)

        def write(number: int) -> str:
            arn: str = one.sm.create_model_package_group(ModelPackageGroupName=f"written-{number}")[
                "ModelPackageGroupArn"
            ]
            return arn

        with ThreadPoolExecutor(AT_ONCE) as writers:
            written = [writers.submit(write, number) for number in range(400)]
            until(lambda: sum(w.done() for w in written), lambda number: number > 100)
            one.process.kill()  # in the middle of writing
            until(lambda: processes(marker), lambda left: not left, 2)
            for waiting in written:
                waiting.cancel()
        confirmed = {w.result() for w in written if not w.cancelled() and not w.exception()}
        assert 100 < len(confirmed) < 400

        with emulator(tmp_path / "one") as again:
            sm = again.sm
            pages = sm.get_paginator("list_model_package_groups").paginate(NameContains="written-")
            kept = {g["ModelPackageGroupArn"] for p in pages for g in p["ModelPackageGroupSummaryList"]}
            assert confirmed <= kept, "what was confirmed is there"
            assert sm.describe_training_job(TrainingJobName="running")["TrainingJobStatus"] == "Failed"
            found = sm.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="running")
            assert found["HyperParameterTuningJobStatus"] == "Failed"
            assert found["TrainingJobStatusCounters"]["InProgress"] == 0
            until(
                lambda: sm.describe_endpoint(EndpointName="running")["EndpointStatus"], lambda s: s == "InService", 30
            )
            assert not list(again.folder.rglob("*.tmp")), "no half record is left"
            for record in (again.folder / "records").rglob("*.json"):
                json.loads(record.read_text())
        until(lambda: processes(marker), lambda left: not left, 2)
