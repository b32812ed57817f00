"""The common parts of transform and processing jobs: names, quotas, states, stops, restarts."""

import shutil
import threading
import time
import uuid
from pathlib import Path
from typing import ClassVar

from sagemaker_emulator.control import Control
from sagemaker_emulator.errors import STOPPED, ApiError, JobFailed
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.processes.containers import Containers
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.quotas import check_quota
from sagemaker_emulator.storage.listing import page, pick, select
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.tags import Tags

_RUNNING = ("InProgress", "Stopping")


class BatchJobs:
    """A kind of job. Subclasses implement ``work``."""

    KIND: ClassVar[str]  # kind in ARNs: transform-job
    PREFIX: ClassVar[str]  # prefix of members: TransformJob
    GRACE: ClassVar[float] = 120.0  # longest time between SIGTERM and SIGKILL, in seconds

    def __init__(
        self, records: Records, identity: Identity, tags: Tags, control: Control, tasks: Tasks, containers: Containers
    ) -> None:
        self._records, self._identity, self._tags, self._control, self._tasks, self._containers = (
            records,
            identity,
            tags,
            control,
            tasks,
            containers,
        )
        self._stops: dict[str, threading.Event] = {}
        self._ends: list[threading.Event] = []  # of jobs whose threads may run

    def work(self, record: Record, folder: Path, stop: threading.Event) -> Record:
        """Do the work of a job in a thread; returns new members of its record.

        Args:
            record: of the job.
            folder: a new folder, removed after the job.
            stop: set when the job is to end.

        Raises:
            JobFailed: the job failed.
        """
        raise NotImplementedError

    def resources(self, record: Record) -> Record:
        """InstanceType and InstanceCount of a job or a request."""
        raise NotImplementedError

    def recover(self) -> None:
        """Mark jobs that ran when the emulator ended as Failed, as AWS does after an internal error."""
        shutil.rmtree(self._containers.folder / f"{self.KIND}s", ignore_errors=True)
        for record in self._records.all(self.KIND):
            if record[f"{self.PREFIX}Status"] in _RUNNING:
                self._end(record[f"{self.PREFIX}Name"], "Failed", {"FailureReason": STOPPED})

    def close(self) -> None:
        """Wait until the jobs have ended; ``tasks.stopping`` is set."""
        for stop in list(self._stops.values()):
            stop.set()
        for end in list(self._ends):
            end.wait(30)

    def create(self, request: Record, more: Record) -> Record:
        """Store a job, which has the members of ``request`` and ``more``, and run it in the background.

        Raises:
            ApiError: the name is in use, or the quota is exceeded.
        """
        name = request[f"{self.PREFIX}Name"]
        arn = self._identity.arn(self.KIND, name)
        if self._records.find(self.KIND, name):
            raise ApiError(
                "ResourceInUse",
                "Job name must be unique within an AWS account and region, and a job with this name already exists "
                f"({arn})",
            )
        self._check_quota(request)
        self._tags.put(arn, request.get("Tags", []))
        now = time.time()
        record = {k: v for k, v in request.items() if k != "Tags"} | more
        record |= {f"{self.PREFIX}Arn": arn, f"{self.PREFIX}Status": "InProgress"}
        record |= {"CreationTime": now, "LastModifiedTime": now}
        self._records.save(self.KIND, name, record)
        stop, end = threading.Event(), threading.Event()
        self._stops[name] = stop
        self._ends = [*(e for e in self._ends if not e.is_set()), end]
        self._tasks.background(self._run, record, stop, end)
        return {f"{self.PREFIX}Arn": arn}

    def get_record(self, request: Record) -> Record:
        """The job that a request names.

        Raises:
            ApiError: it does not exist.
        """
        name = request[f"{self.PREFIX}Name"]
        record = self._records.find(self.KIND, name)
        if record is None:
            raise ApiError("ValidationException", f"Could not find requested job with name: {name}")
        return record

    def listed(self, request: Record, order: str) -> Record:
        """One page of jobs, by default in ``order``."""
        jobs = select({"SortOrder": order} | request, self._records.all(self.KIND), self.PREFIX)
        named = [f"{self.PREFIX}{end}" for end in ("Name", "Arn", "Status")]
        times = ("CreationTime", "LastModifiedTime", f"{self._short}EndTime", "FailureReason", "ExitMessage")
        return page(request, f"{self.PREFIX}Summaries", [pick(r, *named, *times) for r in jobs])

    def stop(self, request: Record) -> None:
        """Stop a job.

        Raises:
            ApiError: it has ended already.
        """
        record = self.get_record(request)
        status = record[f"{self.PREFIX}Status"]
        if status not in _RUNNING:
            raise ApiError("ValidationException", f"The request was rejected because the job is in status {status}.")
        self._change(record[f"{self.PREFIX}Name"], {f"{self.PREFIX}Status": "Stopping"})
        self._stops[record[f"{self.PREFIX}Name"]].set()

    def delete(self, request: Record) -> None:
        """Delete a job's record.

        Raises:
            ApiError: it still runs.
        """
        record = self.get_record(request)
        if record[f"{self.PREFIX}Status"] in _RUNNING:
            raise ApiError("ResourceInUse", "The job is still running; stop it before deleting it.")
        self._records.remove(self.KIND, record[f"{self.PREFIX}Name"])

    def grace(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""
        return self._containers.grace(self.GRACE)

    @property
    def _short(self) -> str:
        return self.PREFIX.removesuffix("Job")

    def _run(self, record: Record, stop: threading.Event, end: threading.Event) -> None:
        """Run a job to its end."""
        name = record[f"{self.PREFIX}Name"]
        # a unique name: the job's name may be reused before the folder is removed
        folder = self._containers.folder / f"{self.KIND}s" / f"{name}-{uuid.uuid4().hex[:8]}"
        self._change(name, {f"{self._short}StartTime": time.time()})
        try:
            more = self.work(record, folder, stop)
            self._end(name, "Stopped" if stop.is_set() else "Completed", more)
        except JobFailed as failed:
            self._end(name, "Stopped" if stop.is_set() else "Failed", {"FailureReason": str(failed)[:1024]})
        except Exception as error:
            self._end(name, "Failed", {"FailureReason": f"InternalServerError: {error!r}"[:1024]})
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            end.set()

    def _end(self, name: str, status: str, more: Record) -> None:
        if self._tasks.stopping.is_set():
            status, more = "Failed", {"FailureReason": STOPPED}
        if status == "Stopped":
            more = {k: v for k, v in more.items() if k != "FailureReason"}
        self._change(name, {f"{self.PREFIX}Status": status, f"{self._short}EndTime": time.time()} | more)

    def _change(self, name: str, members: Record) -> None:
        self._records.change(self.KIND, name, **members, LastModifiedTime=time.time())

    def _check_quota(self, request: Record) -> None:
        requested = self.resources(request)
        running = [self.resources(r) for r in self._records.all(self.KIND) if r[f"{self.PREFIX}Status"] in _RUNNING]
        used = sum(r["InstanceCount"] for r in running if r["InstanceType"] == requested["InstanceType"])
        use = f"{self._short.lower()} job usage"
        check_quota(self._control, requested["InstanceType"], requested["InstanceCount"], used, use)
