"""Runs one training job: its /opt/ml, its processes, its log, and its results in S3."""

import math
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from sagemaker_emulator.aws_services import AwsServices
from sagemaker_emulator.control import Control
from sagemaker_emulator.errors import STOPPED, JobFailed
from sagemaker_emulator.jobs.metric_regexes import MetricRegexes
from sagemaker_emulator.processes.containers import Container, Containers
from sagemaker_emulator.processes.opt_ml import Uploads, prepare
from sagemaker_emulator.processes.rule_evaluation import RuleEvaluation, close
from sagemaker_emulator.processes.system_metrics import SystemMetrics
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.transfers import Transfers

_KIND = "training-job"
_GROUP = "/aws/sagemaker/TrainingJobs"
_POLL = 0.05  # seconds between two polls of the processes
_SPOT = 0.3  # billed share of a spot job's seconds, in place of a market price
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


class TrainingRun:
    """One run of a job; ``run`` is called in a thread."""

    def __init__(
        self,
        records: Records,
        transfers: Transfers,
        containers: Containers,
        aws: AwsServices,
        control: Control,
        name: str,
        on_metric: Callable[[str, float], None] | None = None,
    ) -> None:
        self._records, self._transfers, self._containers = records, transfers, containers
        self._aws, self._control = aws, control
        self.name, self._on_metric = name, on_metric
        self._stop_requested = threading.Event()
        self._interrupted = threading.Event()
        self.ended = threading.Event()
        # a unique name: the job's name may be reused before the folder is removed
        self._folder = containers.folder / "jobs" / f"{name}-{uuid.uuid4().hex[:8]}"
        record = records.find(_KIND, name)
        assert record is not None
        self._record: Record = record
        definitions = self._record["AlgorithmSpecification"].get("MetricDefinitions", [])
        self._metrics = MetricRegexes([(d["Name"], d["Regex"]) for d in definitions], self._note_slow)
        self._stream = ""  # of the first instance's log
        self._seconds = 0.0  # time of training over all attempts

    def stop(self) -> None:
        """Stop it. Returns at once, may be called from any thread, and after its end."""
        with self._records.lock:
            if self._record["TrainingJobStatus"] == "InProgress":
                self._stop_requested.set()
                self._records.change(_KIND, self.name, TrainingJobStatus="Stopping")
                self._enter("Stopping")

    def run(self) -> None:
        """Run the job to its end."""
        try:
            self._run()
        except JobFailed as failed:
            self.fail(str(failed))
        except Exception as error:
            self.fail(f"InternalServerError: {error!r}")
            raise
        finally:
            self._metrics.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            self.ended.set()

    def fail(self, reason: str) -> None:
        """End it with the status Failed."""
        self._end("Failed", "Failed", FailureReason=reason[:1024])

    def _run(self) -> None:
        began, attempt = time.monotonic(), 0
        while True:
            attempt += 1
            self._interrupted.clear()
            self._enter("Starting")
            folder = self._folder / f"attempt-{attempt}"
            hosts = prepare(self._transfers, self._containers, self._record, folder, self._enter)
            uploads = Uploads(self._transfers, self._record, hosts)
            if "TrainingStartTime" not in self._record:
                self._records.change(_KIND, self.name, TrainingStartTime=time.time())
            if self._stop_requested.is_set():
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
        """Run the processes to their end, or until they must stop; returns exit code, status, and the failed host."""
        start = time.monotonic()
        containers: list[Container] = []
        why, failed = "Completed", None
        rules = self._containers.evaluate_rules(self._record, hosts[0])
        metrics = SystemMetrics(self._record, hosts[0] / "output" / "profiler")
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
                if time.monotonic() - synced > self._containers.settings.sync:
                    uploads.sync()
                    self._update(rules)
                    synced = time.monotonic()
        finally:
            codes = _end_all(containers, self._containers.grace())
            metrics.close()
            rules.end(1.0 if self._containers.stopping else 120.0)
        self._seconds += time.monotonic() - start
        bad = next(((c.opt_ml, n) for c, n in zip(containers, codes, strict=True) if n), (None, 0))
        if failed:
            bad = next((c.opt_ml, n) for c, n in zip(containers, codes, strict=True) if c.opt_ml == failed)
        return bad[1], why, bad[0]

    def _update(self, rules: RuleEvaluation) -> None:
        """Show what the rules have found, and stop the job if the action of one is to stop it."""
        with self._records.lock:
            stops = rules.update()
            self._records.save(_KIND, self.name, self._record)
        if stops:
            self.stop()

    def _reason_to_end(self, start: float, began: float) -> str:
        """The reason to stop the processes now; Completed without one."""
        limits, now = self._record["StoppingCondition"], time.monotonic()
        if self._containers.stopping:
            return "EmulatorStopped"
        if self._stop_requested.is_set():
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
        command = algorithm.get("ContainerEntrypoint") or self._containers.images.command(
            algorithm["TrainingImage"], "train"
        )
        environment = {"TRAINING_JOB_NAME": self.name, "TRAINING_JOB_ARN": self._record["TrainingJobArn"]}
        stream = f"{self.name}/algo-{number}-{time.time_ns() // 1_000_000}"
        self._stream = stream if number == 1 else self._stream

        def on_line(line: str) -> None:
            self._aws.log(_GROUP, stream, [(int(time.time() * 1000), line)])
            self._measure(line)
            if self._record.get("EnableManagedSpotTraining") and self._control.interrupts(self.name, line):
                self._interrupted.set()

        self._aws.log(_GROUP, stream, [])
        words = [*command, *algorithm.get("ContainerArguments", [])]
        return self._containers.start(
            algorithm.get("TrainingImage", ""),
            words,
            opt_ml,
            environment | self._record.get("Environment", {}),
            on_line,
        )

    def _measure(self, line: str) -> None:
        """Record the metrics in a line; the last value of each is its final one."""
        for name, text in self._metrics.values(line):
            try:
                value = float(text or "")
            except ValueError:
                continue
            if not math.isfinite(value):
                continue  # CloudWatch refuses it
            now = time.time()
            with self._records.lock:
                final = {m["MetricName"]: m for m in self._record.get("FinalMetricDataList", [])}
                final[name] = {"MetricName": name, "Value": value, "Timestamp": now}
                self._records.change(_KIND, self.name, FinalMetricDataList=list(final.values()))
            self._aws.metric(_GROUP, name, {"TrainingJobName": self.name}, value, now)
            if self._on_metric:
                self._on_metric(name, value)

    def _note_slow(self, metric: str) -> None:
        line = f"sagemaker-emulator: the metric {metric} is read no more: its regex takes too long. Simplify it."
        self._aws.log(_GROUP, self._stream, [(int(time.time() * 1000), line)])

    def _finish(self, hosts: list[Path], uploads: Uploads, code: int, why: str, failed: Path | None) -> None:
        """Upload the results, and set the final status."""
        if why == "EmulatorStopped":
            self.fail(STOPPED)
            return
        self._enter("Uploading")
        uploads.sync()
        uploads.artifacts(self._record)
        if why == "Completed" and self._stop_requested.is_set():
            why = "Stopped"  # it ended before the stop
        if why != "Completed":
            self._end("Stopped", why)
        elif code and failed is not None:
            self.fail(failure_reason(failed, code))
        else:
            self._end("Completed", "Completed")

    def _enter(self, status: str, now: float | None = None) -> None:
        """Enter a secondary status, now or at a time."""
        with self._records.lock:
            now = now or time.time()
            past: list[Record] = self._record["SecondaryStatusTransitions"]
            if status == "Uploading" and past and past[-1]["Status"] == "Stopping":
                return  # a stopping job keeps this status
            if past:
                past[-1].setdefault("EndTime", now)
            past.append({"Status": status, "StartTime": now, "StatusMessage": _MESSAGES[status]})
            self._records.change(_KIND, self.name, SecondaryStatus=status, LastModifiedTime=now)

    def _end(self, status: str, secondary: str, **more: str) -> None:
        seconds = math.ceil(self._seconds)
        billed = math.ceil(seconds * _SPOT) if self._record.get("EnableManagedSpotTraining") else seconds
        with self._records.lock:
            now = time.time()
            self._enter(secondary, now)
            self._record["SecondaryStatusTransitions"][-1]["EndTime"] = now
            if more:
                self._record["SecondaryStatusTransitions"][-1]["StatusMessage"] = more["FailureReason"]
            close(self._record)
            times = {"TrainingTimeInSeconds": seconds, "BillableTimeInSeconds": billed}
            started = times if "TrainingStartTime" in self._record else {}
            self._records.change(_KIND, self.name, TrainingJobStatus=status, TrainingEndTime=now, **started, **more)


def _end_all(containers: list[Container], grace: float) -> list[int]:
    """Send SIGTERM to running containers, and SIGKILL after the grace; returns all exit codes."""
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
    """AWS's reason for a failed container: the start of the failure file, and the exit code."""
    file = opt_ml / "output" / "failure"
    text = file.read_text(errors="replace") if file.is_file() else ""
    ending = f", exit code: {code}"
    return f"AlgorithmError: {text.strip()}"[: 1024 - len(ending)] + ending
