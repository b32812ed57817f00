"""`trainer=sagemaker`: runs training jobs, several at a time, and downloads their results."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeAlias

from sagehound.errors import SagehoundError, Stopped
from sagehound.runs import run_folder
from sagehound.storage.atomic import write_json
from sagehound.system import console
from sagehound_launchers.config import Aws, Launch
from sagehound_launchers.sagemaker import account, cost, job_client
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import QuotaInUse, Unreachable
from sagehound_launchers.sagemaker.job_client import Log
from sagehound_launchers.sagemaker.job_results import collect
from sagehound_launchers.sagemaker.training_plans import REQUEST, Job, prepare
from sagehound_launchers.search.runners import stop_signal, terminable

_KIND = "training_job"
_ENDED = ("Completed", "Failed", "Stopped")

Outcome: TypeAlias = dict[str, Any] | SagehoundError  # a job's metrics.json, or why there is none


def launch(cfgs: Sequence[Launch], overrides: Sequence[Sequence[str]], folders: Sequence[Path]) -> list[Outcome]:
    """Run a training job for each checked config, and download its results into its folder.

    Raises:
        ConfigError: AWS needs a setting, or would refuse a request. Nothing was started.
        SagehoundError: a job could not be started or followed.
        Stopped: Ctrl-C or SIGTERM came.
    """
    aws = cfgs[0].aws
    cloud = account.connect(aws, dry_run=cfgs[0].dry_run)
    jobs = prepare(cloud, list(zip(cfgs, overrides, folders, strict=True)))
    print_cost(cloud, aws, len(jobs))
    if cfgs[0].dry_run:
        return [_write_request(job) for job in jobs]
    most = max(aws.max_parallel_jobs, cfgs[0].hpo.max_parallel_jobs if cfgs[0].hpo else 1)
    return Runner(cloud, jobs, most).run()


def _write_request(job: Job) -> Outcome:
    path = job.folder / REQUEST
    write_json(path, job.request)
    console.info(f"dry_run: nothing was sent; CreateTrainingJob: {path}")
    return {}


def print_cost(cloud: Cloud, aws: Aws, jobs: int) -> None:
    """Print the most that jobs can cost, unless they run in the emulator."""
    if not cloud.emulated:
        region, hours = cloud.account.region, aws.max_hours
        console.info(f"cost: {cost.estimate(aws.instance_type, aws.instance_count, hours, region, aws.spot, jobs)}")


class Runner:
    """Runs jobs, ``most`` at a time. Prints their logs, and downloads the results of each when it ends."""

    def __init__(self, cloud: Cloud, jobs: Sequence[Job], most: int) -> None:
        self.cloud, self.jobs, self.most = cloud, jobs, most
        self._running: dict[str, Job] = {}
        self._given_up = threading.Event()
        folder = self.jobs[0].folder
        again = f"hydra.run.dir={folder}" if len(jobs) == 1 else f"hydra.sweep.dir={folder.parent}"
        self._resume_hint = job_client.resume_hint(cloud, f"the same command with {again} follows the jobs")

    def run(self) -> list[Outcome]:
        """Start the jobs, and wait until all have ended.

        Returns:
            for each job its metrics.json, or the error.

        Raises:
            SagehoundError: a job could not be started or followed; the message names the jobs that still run.
            Stopped: Ctrl-C or SIGTERM came. The jobs continue, or with aws.stop_on_interrupt are stopped.
        """
        with terminable(), ThreadPoolExecutor(self.most) as pool:
            ended = [pool.submit(self._one, job) for job in self.jobs]
            try:
                wait(ended, return_when=FIRST_EXCEPTION)
                return [job.result() for job in ended]
            except (KeyboardInterrupt, SagehoundError) as error:
                self._given_up.set()
                wait(ended)  # so that jobs that are starting are known
                raise self._stopped_by(error) from error

    def _one(self, job: Job) -> Outcome:
        """Run one job. It is not started if another one could not be started or followed."""
        prefix = f"{job.folder.name}| " if len(self.jobs) > 1 else ""
        if self._given_up.is_set():
            return SagehoundError(f"job {job.name} was not started")
        self._running[job.name] = job
        try:
            if job.cfg.overwrite or job.replaces:
                run_folder.remove_run(job.folder, REQUEST, "job.json")
            write_json(job.folder / REQUEST, job.request)
            self._start(job, prefix)
            console.info(f"{prefix}job {job.name} runs; results: {job.folder}")
            ended = self._follow(job, prefix)
        except SagehoundError as error:
            self._given_up.set()
            if not isinstance(error, Unreachable):
                del self._running[job.name]
            raise
        try:
            return collect(self.cloud, job, ended) if ended else SagehoundError(f"job {job.name} is no longer followed")
        except SagehoundError as error:
            return error

    def _start(self, job: Job, prefix: str) -> None:
        """Start a job; while other jobs use the account's quota, wait for them."""
        minutes = job.cfg.aws.wait_for_quota_minutes
        end, is_reported = time.monotonic() + 60 * minutes, False
        while True:
            try:
                return job_client.start(self.cloud, _KIND, job.name, job.request)
            except QuotaInUse as error:
                if time.monotonic() > end or self._given_up.is_set():
                    raise
                if not is_reported:
                    quota = f"the quota of {job.cfg.aws.instance_type} is in use"
                    console.info(f"{prefix}job {job.name} waits at most {minutes:g} minutes: {quota}")
                    is_reported = True
                if self._given_up.wait(self.cloud.poll):
                    raise SagehoundError(f"job {job.name} was not started") from error

    def _follow(self, job: Job, prefix: str) -> dict[str, Any] | None:
        """Wait until a job has ended; returns its description, or None if waiting was given up."""
        log, status = Log(self.cloud, job.name, prefix), ""
        while not self._given_up.wait(self.cloud.poll):
            description = self._describe(job, log)
            if description["SecondaryStatus"] != status:
                status = description["SecondaryStatus"]
                console.info(f"{prefix}job {job.name}: {status}")
            if description["TrainingJobStatus"] in _ENDED:
                time.sleep(self.cloud.poll / 2)  # the last lines of a log arrive late
                self._describe(job, log)
                del self._running[job.name]
                return description
        return None

    def _describe(self, job: Job, log: Log) -> dict[str, Any]:
        def poll() -> dict[str, Any]:
            description = job_client.describe(self.cloud, _KIND, job.name)
            log.print_new()
            return description

        return job_client.poll_until(self.cloud, job.cfg.aws.patience_minutes, poll, self._given_up.is_set)

    def _stopped_by(self, error: BaseException) -> SagehoundError:
        """The error to raise after an error or a signal; it names the jobs that still run."""
        left = list(self._running)
        note = f"; still on SageMaker: {', '.join(left)}; {self._resume_hint}"
        if not isinstance(error, KeyboardInterrupt | Stopped):
            kind = type(error) if isinstance(error, SagehoundError) else SagehoundError
            return kind(f"{error}{note if left else ''}")
        signum = stop_signal(error)
        if self.jobs[0].cfg.aws.stop_on_interrupt:
            note = "; the jobs are being stopped"
            for name in left:
                try:
                    job_client.stop(self.cloud, _KIND, name)
                except SagehoundError as failure:
                    note += f", but for {name}: {failure}"
        return Stopped(f"stopped by {signum.name}{note if left else ''}", signum)
