"""Runs one execution of a pipeline, in a thread. Its state is a record, so it continues after a restart."""

import hashlib
import json
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime

from sagemaker_emulator.errors import STOPPED, ApiError, JobFailed
from sagemaker_emulator.pipelines.conditions import holds
from sagemaker_emulator.pipelines.definition import Definition, Json, Step, parse
from sagemaker_emulator.pipelines.durations import seconds
from sagemaker_emulator.pipelines.references import References
from sagemaker_emulator.pipelines.step_jobs import KINDS, RUNNING, StepJobs, job_name
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.transfers import Transfers, join_uri

KIND = "pipeline-execution"
_POLL = 0.1
_MOST_PARALLEL = 50  # steps at a time, where no ParallelismConfiguration is given; from memory
_STOPPABLE = ("Training", "Tuning", "Processing", "Transform")  # types whose jobs take time
_ENDED = ("Succeeded", "Failed", "Stopped", "Skipped")


class ExecutionRun:
    """The thread of one execution."""

    def __init__(self, records: Records, tasks: Tasks, transfers: Transfers, jobs: StepJobs, record: Record) -> None:
        self._records, self._tasks, self._transfers, self._jobs = records, tasks, transfers, jobs
        self._record, self._id = record, record["_Id"]
        self._definition: Definition = parse(record["_Definition"])
        self.ended = threading.Event()

    def run(self) -> None:
        """Run the steps until none is left, or the emulator ends."""
        try:
            while not self._tasks.stopping.is_set():
                for name, state in list(self._steps.items()):
                    if state["StepStatus"] in ("Starting", "Executing", "Stopping"):
                        self._update(self._definition.steps[name], state)
                if self._record["PipelineExecutionStatus"] == "Executing":
                    self._start_ready()
                is_stopping = self._record["PipelineExecutionStatus"] == "Stopping"
                if not self._running() and (is_stopping or not self._waiting()):
                    return self._end()
                self._tasks.stopping.wait(_POLL)
        except Exception as error:
            self._abandon(f"InternalServerError: {error!r}")
            raise
        finally:
            self.ended.set()
        return None

    # Which steps run

    @property
    def _steps(self) -> dict[str, Record]:
        steps: dict[str, Record] = self._record["_Steps"]
        return steps

    def _waiting(self) -> list[Step]:
        return [s for s in self._definition.steps.values() if s.name not in self._steps]

    def _running(self) -> int:
        return sum(s["StepStatus"] not in _ENDED for s in self._steps.values())

    def _start_ready(self) -> None:
        most = self._record.get("ParallelismConfiguration", {}).get("MaxParallelExecutionSteps", _MOST_PARALLEL)
        for step in self._waiting():
            before = [self._steps.get(name, {}).get("StepStatus") for name in step.after]
            if step.branch:
                condition = self._steps.get(step.branch[0], {})
                outcome = condition.get("Metadata", {}).get("Condition", {}).get("Outcome")
                is_taken = outcome == str(step.branch[1])
                before.append("Skipped" if outcome and not is_taken else condition.get("StepStatus"))
            if any(status in ("Failed", "Stopped", "Skipped") for status in before):
                self._set(step.name, StepStatus="Skipped")
            elif all(status == "Succeeded" for status in before) and self._running() < most:
                self._start(step)

    # One step

    def _start(self, step: Step) -> None:
        attempt = self._record["_Attempts"].get(step.name, 0) + 1
        with self._records.lock:  # another thread may be writing the record
            self._record["_Attempts"][step.name] = attempt
        began = self._steps.get(step.name, {}).get("StartTime", time.time())
        self._set(step.name, StepStatus="Starting", StartTime=began, AttemptCount=attempt)
        try:
            if step.type == "Condition":
                met = all([holds(c) for c in self._references(step).resolve(step.arguments["Conditions"])])
                self._succeed(step, {"Condition": {"Outcome": str(met)}})
            elif step.type == "Fail":
                message = str(self._references(step).resolve(step.arguments.get("ErrorMessage", "")))
                end = {"StepStatus": "Failed", "EndTime": time.time(), "FailureReason": message}
                self._set(step.name, Metadata={"Fail": {"ErrorMessage": message}}, **end)
            else:
                self._start_job(step, attempt)
        except JobFailed as failed:
            self._fail(step, str(failed))
        except ApiError as refused:
            kinds = {"ResourceLimitExceeded": "SageMaker.RESOURCE_LIMIT", "ThrottlingException": "Step.THROTTLING"}
            self._fail(step, f"ClientError: {refused.message}", kinds.get(refused.code))
        except Exception as error:
            self._fail(step, _described(error))

    def _start_job(self, step: Step, attempt: int) -> None:
        name = job_name(step.type, self._id, step.name, attempt)
        job = KINDS[step.type].job
        arguments = self._references(step, {f"{job}Name": name}).resolve(dict(step.arguments))
        key = hashlib.sha256(json.dumps([step.type, arguments], sort_keys=True).encode()).hexdigest()
        if hit := self._cached(step, key):
            source, state = hit
            more = {"CacheHitResult": {"SourcePipelineExecutionArn": source}, "_Job": state["_Job"]}
            self._set(step.name, _Key=key, **more)
            return self._succeed(step, state["Metadata"])
        self._set(step.name, _Job=name, _Key=key)  # before the job exists, so that a restart finds it
        arn = self._jobs.create(step.type, name, arguments, self._record["PipelineExecutionArn"])
        name = arn if step.type == "RegisterModel" else name
        self._set(step.name, StepStatus="Executing", _Job=name, Metadata={KINDS[step.type].metadata: {"Arn": arn}})
        return None

    def _update(self, step: Step, state: Record) -> None:
        """Bring a step's state up to date; an error fails this step only, and stops its job."""
        try:
            self._poll(step, state)
        except Exception as error:
            self._stop_job(step)
            self._fail(step, _described(error))

    def _stop_job(self, step: Step) -> None:
        if step.type in _STOPPABLE and "_Job" in self._steps[step.name]:
            self._jobs.stop(step.type, self._steps[step.name]["_Job"])

    def _abandon(self, reason: str) -> None:
        """End the execution after an error of the emulator: no job runs on, and no step remains unfinished."""
        unfinished = [name for name, state in self._steps.items() if state["StepStatus"] not in _ENDED]
        for name in unfinished:
            with suppress(Exception):  # the first error is reported
                self._stop_job(self._definition.steps[name])
        for name in unfinished:
            with suppress(OSError):  # of the disk; the states in memory are changed
                self._set(name, StepStatus="Failed", EndTime=time.time(), FailureReason=reason[:3072])
        with suppress(OSError):
            self._change(PipelineExecutionStatus="Failed", FailureReason=reason[:1300])

    def _poll(self, step: Step, state: Record) -> None:
        """Bring a step's state up to date with its job."""
        is_stopping = self._record["PipelineExecutionStatus"] == "Stopping"
        has_job = "_Retry" not in state and "Metadata" in state
        if is_stopping and not has_job:
            return self._set(step.name, StepStatus="Stopped", EndTime=time.time(), _Retry=None)
        if state.get("_Retry", 0) > time.time():
            return None
        if not has_job:  # a restart has interrupted the start, or it is retried
            if "_Retry" not in state:
                self._record["_Attempts"][step.name] -= 1
            self._set(step.name, _Retry=None)
            return self._start(step)
        status, reason = self._jobs.state(step.type, state["_Job"])
        if status in RUNNING:
            if is_stopping and state["StepStatus"] != "Stopping":
                self._set(step.name, StepStatus="Stopping")
                self._jobs.stop(step.type, state["_Job"])
        elif status == "Completed":
            self._succeed(step, state["Metadata"])
        elif status == "Stopped":
            self._set(step.name, StepStatus="Stopped", EndTime=time.time())
        elif reason == STOPPED and not self._tasks.stopping.is_set():
            self._set(step.name, _Retry=time.time())  # the emulator's end, not the job's own fault: once more
        elif not self._tasks.stopping.is_set():
            internal = reason.startswith("InternalServerError")
            capacity = reason.startswith("CapacityError")
            kind = "SageMaker.JOB_INTERNAL_ERROR" if internal else "SageMaker.CAPACITY_ERROR" if capacity else None
            self._fail(step, reason, kind)
        return None

    def _succeed(self, step: Step, metadata: Record) -> None:
        self._set(step.name, StepStatus="Succeeded", EndTime=time.time(), Metadata=metadata)

    def _fail(self, step: Step, reason: str, kind: str | None = None) -> None:
        """End a step as failed, or retry it if one of its policies covers ``kind``."""
        try:
            pause = self._pause(step, kind)
        except Exception as error:
            pause, reason = None, f"{reason}; RetryPolicies: {_described(error)}"
        if pause is not None:
            return self._set(step.name, StepStatus="Executing", _Retry=time.time() + pause)
        return self._set(step.name, StepStatus="Failed", EndTime=time.time(), FailureReason=reason[:3072])

    def _pause(self, step: Step, kind: str | None) -> float | None:
        """Seconds until the next attempt; None if no policy covers ``kind``, or its attempts or time are used up."""
        attempt = self._record["_Attempts"][step.name]
        for policy in step.content.get("RetryPolicies", []):
            most = policy.get("MaxAttempts", float("inf"))
            expires = self._steps[step.name]["StartTime"] + 60 * policy.get("ExpireAfterMin", float("inf"))
            if kind in policy.get("ExceptionType", []) and attempt <= most and time.time() < expires:
                return float(policy.get("IntervalSeconds", 1) * policy.get("BackoffRate", 2.0) ** (attempt - 1))
        return None

    def _cached(self, step: Step, key: str) -> tuple[str, Record] | None:
        """The execution's ARN and the state of the same step, done before with the same arguments."""
        config = step.content.get("CacheConfig", {})
        if not config.get("Enabled"):
            return None
        since = time.time() - seconds(config.get("ExpireAfter", "p1y"))
        for record in reversed(self._records.all(KIND)):
            state = record["_Steps"].get(step.name, {})
            is_same = record["PipelineArn"] == self._record["PipelineArn"] and state.get("_Key") == key
            if is_same and state["StepStatus"] == "Succeeded" and state["EndTime"] >= since:
                arn = state.get("CacheHitResult", {}).get("SourcePipelineExecutionArn", record["PipelineExecutionArn"])
                return arn, state
        return None

    # References

    def _references(self, step: Step, more: dict[str, str] | None = None) -> References:
        started = datetime.fromtimestamp(self._record["CreationTime"], UTC)
        execution = {
            "PipelineName": self._record["PipelineArn"].rpartition("/")[2],
            "PipelineArn": self._record["PipelineArn"],
            "PipelineExecutionId": self._id,
            "PipelineExecutionArn": self._record["PipelineExecutionArn"],
            "StartDateTime": f"{started:%Y-%m-%dT%H:%M:%SZ}",
            "CurrentDateTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        }
        return References(
            self._record["_Parameters"], execution | (more or {}), self._describe, self._property_file, self._read
        )

    def _describe(self, name: str) -> Json:
        state, step = self._steps[name], self._definition.steps[name]
        if "_Job" not in state:
            raise JobFailed(f"ClientError: step {name} has no properties: it runs no job")
        return self._jobs.describe(step.type, state["_Job"])

    def _property_file(self, step: str, name: str) -> str:
        files = {f["PropertyFileName"]: f for f in self._definition.steps[step].content.get("PropertyFiles", [])}
        if name not in files:
            raise JobFailed(f"ClientError: step {step} has no property file {name}")
        outputs = self._describe(step)["ProcessingOutputConfig"]["Outputs"]
        uri = {o["OutputName"]: o["S3Output"]["S3Uri"] for o in outputs}.get(files[name]["OutputName"], "")
        return join_uri(uri, files[name]["FilePath"])

    def _read(self, uri: str) -> str:
        path = self._transfers.path(uri)
        if path is None:
            raise JobFailed(f"ClientError: there is no object at {uri}")
        return path.read_text(encoding="utf-8")

    # Records

    def _set(self, name: str, **members: object) -> None:
        """Change members of a step's state (None removes one)."""
        with self._records.lock:
            state = {**self._steps.get(name, {"StepName": name}), **members}
            self._steps[name] = {k: v for k, v in state.items() if v is not None}
            self._change()

    def _change(self, **members: object) -> None:
        self._records.change(KIND, self._id, LastModifiedTime=time.time(), **members)

    def _end(self) -> None:
        own = [s for s in self._steps.values() if "SelectiveExecutionResult" not in s]  # the others did not run
        statuses = {s["StepStatus"] for s in own}
        if self._record["PipelineExecutionStatus"] == "Stopping":
            self._change(PipelineExecutionStatus="Stopped")
        elif "Failed" in statuses:
            failed = [f"{s['StepName']}: {s['FailureReason']}" for s in own if "FailureReason" in s]
            reason = f"Step failure: One or multiple steps failed: {'; '.join(failed)}"
            self._change(PipelineExecutionStatus="Failed", FailureReason=reason[:1300])
        else:
            self._change(PipelineExecutionStatus="Stopped" if "Stopped" in statuses else "Succeeded")


def _described(error: Exception) -> str:
    """The FailureReason of a step whose definition cannot be executed."""
    if isinstance(error, ApiError | JobFailed):
        return f"ClientError: {error}".replace("ClientError: ClientError: ", "ClientError: ")
    problem = f"{error} is missing" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
    return f"ClientError: the step cannot be executed as it is defined: {problem}"
