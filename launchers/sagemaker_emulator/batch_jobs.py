"""What transform and processing jobs share: names, quotas, states, stops, and what a restart leaves."""

import shutil
import threading
import time
from pathlib import Path
from typing import ClassVar

from sagehound_launchers.emulator.listing import page, pick, select
from sagehound_launchers.emulator.quotas import check_quota
from sagehound_launchers.emulator.tags import Tags
from sagehound_launchers.emulator.world import STOPPED, Failed, Record, Refused, World

_RUNNING = ("InProgress", "Stopping")


class BatchJobs:
    """A kind of job; what it does is ``work``'s to say."""

    KIND: ClassVar[str]  # in ARNs: transform-job
    PREFIX: ClassVar[str]  # of members: TransformJob
    GRACE: ClassVar[float] = 120.0  # seconds that AWS leaves a job between SIGTERM and SIGKILL, at most

    def __init__(self, world: World) -> None:
        self._world = world
        self._stops: dict[str, threading.Event] = {}
        self._ends: dict[str, threading.Event] = {}

    def work(self, record: Record, folder: Path, stop: threading.Event) -> Record:
        """Do what a job is for, in a thread; the members that its record gets.

        Args:
            record: the job's.
            folder: a new folder, which goes with the job.
            stop: set when the job is to end.

        Raises:
            Failed: it could not be done.
        """
        raise NotImplementedError

    def resources(self, record: Record) -> Record:
        """A job's or a request's InstanceType and InstanceCount."""
        raise NotImplementedError

    def recover(self) -> None:
        """Jobs that ran when the emulator ended are Failed, as at AWS after a failure of its own."""
        shutil.rmtree(self._world.folder / f"{self.KIND}s", ignore_errors=True)
        for record in self._world.all(self.KIND):
            if record[f"{self.PREFIX}Status"] in _RUNNING:
                self._end(record[f"{self.PREFIX}Name"], "Failed", {"FailureReason": STOPPED})

    def close(self) -> None:
        """Wait until the jobs have been ended, which ``world.stopping`` asks of them."""
        for stop in list(self._stops.values()):
            stop.set()
        for end in list(self._ends.values()):
            end.wait(30)

    def create(self, request: Record, more: Record) -> Record:
        """Keep a job of a checked request, with some members more, and run it in the background.

        Raises:
            Refused: the name is taken, or there are no such instances left.
        """
        name = request[f"{self.PREFIX}Name"]
        arn = self._world.arn(self.KIND, name)
        if self._world.find(self.KIND, name):
            raise Refused(
                "ResourceInUse",
                "Job name must be unique within an AWS account and region, and a job with this name already exists "
                f"({arn})",
            )
        self._check_quota(request)
        self._world.service(Tags).put(arn, request.get("Tags", []))
        now = time.time()
        record = {k: v for k, v in request.items() if k != "Tags"} | more
        record |= {f"{self.PREFIX}Arn": arn, f"{self.PREFIX}Status": "InProgress"}
        self._world.save(self.KIND, name, record | {"CreationTime": now, "LastModifiedTime": now})
        self._stops[name], self._ends[name] = threading.Event(), threading.Event()
        self._world.background(self._run, name)
        return {f"{self.PREFIX}Arn": arn}

    def found(self, request: Record) -> Record:
        """The job that a request names.

        Raises:
            Refused: there is none.
        """
        name = request[f"{self.PREFIX}Name"]
        record = self._world.find(self.KIND, name)
        if record is None:
            raise Refused("ValidationException", f"Could not find requested job with name: {name}")
        return record

    def listed(self, request: Record, order: str) -> Record:
        """One page of jobs, in AWS's order unless told otherwise."""
        found = select({"SortOrder": order} | request, self._world.all(self.KIND), self.PREFIX)
        named = [f"{self.PREFIX}{end}" for end in ("Name", "Arn", "Status")]
        times = ("CreationTime", "LastModifiedTime", f"{self._short}EndTime", "FailureReason", "ExitMessage")
        return page(request, f"{self.PREFIX}Summaries", [pick(r, *named, *times) for r in found])

    def stop(self, request: Record) -> None:
        """Ask a job to stop.

        Raises:
            Refused: it has ended.
        """
        record = self.found(request)
        status = record[f"{self.PREFIX}Status"]
        if status not in _RUNNING:
            raise Refused("ValidationException", f"The request was rejected because the job is in status {status}.")
        self._change(record[f"{self.PREFIX}Name"], {f"{self.PREFIX}Status": "Stopping"})
        self._stops[record[f"{self.PREFIX}Name"]].set()

    def grace(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""
        return 1.0 if self._world.stopping.is_set() else min(self._world.settings.grace, self.GRACE)

    @property
    def _short(self) -> str:
        return self.PREFIX.removesuffix("Job")

    def _run(self, name: str) -> None:
        """Run a job to its end, whatever that is."""
        record, stop = self._world.find(self.KIND, name), self._stops[name]
        assert record is not None
        folder = self._world.folder / f"{self.KIND}s" / name
        self._change(name, {f"{self._short}StartTime": time.time()})
        try:
            more = self.work(record, folder, stop)
            self._end(name, "Stopped" if stop.is_set() else "Completed", more)
        except Failed as failed:
            self._end(name, "Stopped" if stop.is_set() else "Failed", {"FailureReason": str(failed)[:1024]})
        except Exception as error:
            self._end(name, "Failed", {"FailureReason": f"InternalServerError: {error!r}"[:1024]})
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._ends[name].set()

    def _end(self, name: str, status: str, more: Record) -> None:
        if self._world.stopping.is_set():
            status, more = "Failed", {"FailureReason": STOPPED}
        if status == "Stopped":
            more = {k: v for k, v in more.items() if k != "FailureReason"}
        self._change(name, {f"{self.PREFIX}Status": status, f"{self._short}EndTime": time.time()} | more)

    def _change(self, name: str, members: Record) -> None:
        self._world.change(self.KIND, name, **members, LastModifiedTime=time.time())

    def _check_quota(self, request: Record) -> None:
        asked = self.resources(request)
        running = [self.resources(r) for r in self._world.all(self.KIND) if r[f"{self.PREFIX}Status"] in _RUNNING]
        used = sum(r["InstanceCount"] for r in running if r["InstanceType"] == asked["InstanceType"])
        use = f"{self._short.lower()} job usage"
        check_quota(self._world, asked["InstanceType"], asked["InstanceCount"], used, use)
