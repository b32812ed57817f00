"""One training job, run for real: its /opt/ml, its processes, its log, and what it leaves in S3."""

import math
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from sagehound_launchers.emulator.job_folder import Uploads, prepare
from sagehound_launchers.emulator.processes import Container, command_of
from sagehound_launchers.emulator.world import STOPPED, Failed, Record, World

_KIND = "training-job"
_GROUP = "/aws/sagemaker/TrainingJobs"
_POLL = 0.05  # seconds between two looks at the processes
_SPOT = 0.3  # of a spot job's seconds are billed: a stand-in for the day's price
_MESSAGES = {
    "Starting": "Preparing the instances for training",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Uploading": "Uploading generated training model",
    "Interrupted": "Spot instance interrupted. Waiting for capacity to start the job again",
    "Stopping": "Stopping the training job",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
    "MaxWaitTimeExceeded": "Training job runtime exceeded MaxWaitTimeInSeconds provided",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
}


class Run:
    """One job's run; ``run`` is a thread's work."""

    def __init__(self, world: World, name: str, on_metric: Callable[[str, float], None] | None = None) -> None:
        self._world, self.name, self._on_metric = world, name, on_metric
        self._asked_to_stop = threading.Event()
        self._interrupted = threading.Event()
        self.ended = threading.Event()
        # of its own: the name may be free again before the folder is gone
        self._folder = world.folder / "jobs" / f"{name}-{uuid.uuid4().hex[:8]}"
        found = world.find(_KIND, name)
        assert found is not None
        self._record: Record = found
        definitions = self._record["AlgorithmSpecification"].get("MetricDefinitions", [])
        self._metrics = [(d["Name"], re.compile(d["Regex"])) for d in definitions]
        self._seconds = 0.0  # spent in training, over all attempts

    def stop(self) -> None:
        """Ask it to stop; at once, from any thread, and no matter whether it has ended."""
        with self._world.lock:
            if self._record["TrainingJobStatus"] == "InProgress":
                self._asked_to_stop.set()
                self._world.change(_KIND, self.name, TrainingJobStatus="Stopping")
                self._enter("Stopping")

    def run(self) -> None:
        """Run the job to its end, whatever that is."""
        try:
            self._run()
        except Failed as failed:
            self.fail(str(failed))
        except Exception as error:
            self.fail(f"InternalServerError: {error!r}")
            raise
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
            self.ended.set()

    def fail(self, reason: str) -> None:
        """End it as Failed."""
        self._end("Failed", "Failed", FailureReason=reason[:1024])

    def _run(self) -> None:
        began, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            self._interrupted.clear()
            self._enter("Starting")
            hosts = prepare(self._world, self._record, self._folder / f"attempt-{attempt}", self._enter)
            uploads = Uploads(self._world, self._record, hosts)
            if "TrainingStartTime" not in self._record:
                self._world.change(_KIND, self.name, TrainingStartTime=time.time())
            if self._asked_to_stop.is_set():
                code, why, failed = 0, "Stopped", None
            else:
                self._enter("Training")
                code, why, failed = self._train(hosts, uploads, began)
            if why != "Interrupted":
                break
            uploads.sync()
            self._enter("Interrupted")
        self._finish(hosts, uploads, code, why, failed)

    def _train(self, hosts: list[Path], uploads: Uploads, began: float) -> tuple[int, str, Path | None]:
        """Run the processes until they end or something ends them: exit code, status, and the host that failed."""
        start = time.monotonic()
        containers: list[Container] = []
        why, failed = "Completed", None
        try:
            for number, opt_ml in enumerate(hosts, 1):
                containers.append(self._launch(opt_ml, number))
            synced = start
            while not all(c.code is not None for c in containers):
                time.sleep(_POLL)
                failed = failed or next((c.opt_ml for c in containers if c.code), None)
                why = "Completed" if failed else self._reason_to_end(start, began)
                if failed or why != "Completed":
                    break
                if time.monotonic() - synced > self._world.settings.sync:
                    uploads.sync()
                    synced = time.monotonic()
        finally:
            codes = _end_all(containers, self._grace())
        self._seconds += time.monotonic() - start
        bad = next(((c.opt_ml, n) for c, n in zip(containers, codes, strict=True) if n), (None, 0))
        if failed:
            bad = next((c.opt_ml, n) for c, n in zip(containers, codes, strict=True) if c.opt_ml == failed)
        return bad[1], why, bad[0]

    def _grace(self) -> float:
        return 1.0 if self._world.stopping.is_set() else self._world.settings.grace

    def _reason_to_end(self, start: float, began: float) -> str:
        """Why the processes must end now; Completed if they need not."""
        limits, now = self._record["StoppingCondition"], time.monotonic()
        if self._world.stopping.is_set():
            return "EmulatorStopped"
        if self._asked_to_stop.is_set():
            return "Stopped"
        if self._interrupted.is_set():
            return "Interrupted"
        if self._seconds + now - start > limits["MaxRuntimeInSeconds"]:
            return "MaxRuntimeExceeded"
        if now - began > limits.get("MaxWaitTimeInSeconds", math.inf):
            return "MaxWaitTimeExceeded"
        return "Completed"

    def _launch(self, opt_ml: Path, number: int) -> Container:
        algorithm = self._record["AlgorithmSpecification"]
        command = algorithm.get("ContainerEntrypoint") or command_of(self._world, algorithm["TrainingImage"], "train")
        environment = {"TRAINING_JOB_NAME": self.name, "TRAINING_JOB_ARN": self._record["TrainingJobArn"]}
        stream = f"{self.name}/algo-{number}-{time.time_ns() // 1_000_000}"

        def on_line(line: str) -> None:
            self._world.cloud.log(_GROUP, stream, [(int(time.time() * 1000), line)])
            self._measure(line)
            if self._record.get("EnableManagedSpotTraining") and self._world.control.interrupts(self.name, line):
                self._interrupted.set()

        self._world.cloud.log(_GROUP, stream, [])
        return Container(
            self._world,
            [*command, *algorithm.get("ContainerArguments", [])],
            opt_ml,
            environment | self._record.get("Environment", {}),
            on_line,
        )

    def _measure(self, line: str) -> None:
        """Note what the metrics' regexes find in a line; the last value of each is its final one."""
        for name, regex in self._metrics:
            for match in regex.finditer(line):
                try:
                    value = float(match[1] if regex.groups else match[0])
                except (TypeError, ValueError):
                    continue
                if not math.isfinite(value):
                    continue  # CloudWatch takes none
                now = time.time()
                with self._world.lock:
                    final = {m["MetricName"]: m for m in self._record.get("FinalMetricDataList", [])}
                    final[name] = {"MetricName": name, "Value": value, "Timestamp": now}
                    self._world.change(_KIND, self.name, FinalMetricDataList=list(final.values()))
                self._world.cloud.metric(_GROUP, name, {"TrainingJobName": self.name}, value, now)
                if self._on_metric:
                    self._on_metric(name, value)

    def _finish(self, hosts: list[Path], uploads: Uploads, code: int, why: str, failed: Path | None) -> None:
        """Upload what the job left, and say how it ended."""
        if why == "EmulatorStopped":
            self.fail(STOPPED)
            return
        self._enter("Uploading")
        uploads.sync()
        uploads.artifacts(self._record)
        if why == "Completed" and self._asked_to_stop.is_set():
            why = "Stopped"  # it was quicker than the stop
        if why != "Completed":
            self._end("Stopped", why)
        elif code and failed is not None:
            self.fail(failure_reason(failed, code))
        else:
            self._end("Completed", "Completed")

    def _enter(self, status: str) -> None:
        """Go over to a secondary status."""
        now = time.time()
        with self._world.lock:
            past: list[Record] = self._record["SecondaryStatusTransitions"]
            if status == "Uploading" and past and past[-1]["Status"] == "Stopping":
                return  # a job that is being stopped stays so until it has
            if past:
                past[-1].setdefault("EndTime", now)
            past.append({"Status": status, "StartTime": now, "StatusMessage": _MESSAGES[status]})
            self._world.change(_KIND, self.name, SecondaryStatus=status, LastModifiedTime=now)

    def _end(self, status: str, secondary: str, **more: str) -> None:
        now = time.time()
        seconds = math.ceil(self._seconds)
        billed = math.ceil(seconds * _SPOT) if self._record.get("EnableManagedSpotTraining") else seconds
        with self._world.lock:
            self._enter(secondary)
            self._record["SecondaryStatusTransitions"][-1]["EndTime"] = now
            if more:
                self._record["SecondaryStatusTransitions"][-1]["StatusMessage"] = more["FailureReason"]
            for kind in ("Debug", "Profiler"):
                for rule in self._record.get(f"{kind}RuleEvaluationStatuses", []):
                    # of AWS's states, the one that claims no finding
                    rule["RuleEvaluationStatus"] = "Stopped"
                    rule["StatusDetails"] = "the emulator evaluates no managed rules"
                    rule["LastModifiedTime"] = now
            times = {"TrainingTimeInSeconds": seconds, "BillableTimeInSeconds": billed}
            started = times if "TrainingStartTime" in self._record else {}
            self._world.change(_KIND, self.name, TrainingJobStatus=status, TrainingEndTime=now, **started, **more)


def _end_all(containers: list[Container], grace: float) -> list[int]:
    """SIGTERM to those that run, SIGKILL once the grace is over; their exit codes."""
    for container in containers:
        if container.code is None:
            container.terminate()
    until = time.monotonic() + grace
    codes = []
    for container in containers:
        code = container.wait(max(until - time.monotonic(), 0.01))
        if code is None:
            container.kill()
            code = container.wait()
        codes.append(code or 0)
    return codes


def failure_reason(opt_ml: Path, code: int) -> str:
    """What AWS says of a container that failed: the failure file's first letters, and the exit code."""
    file = opt_ml / "output" / "failure"
    text = file.read_text(errors="replace") if file.is_file() else ""
    ending = f", exit code: {code}"
    return f"AlgorithmError: {text.strip()}"[: 1024 - len(ending)] + ending
