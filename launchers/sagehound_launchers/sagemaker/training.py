"""`trainer=sagemaker`: training jobs, several at a time, and their results brought back as if they had run here."""

import json
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from sagehound import archive, console, run_folder
from sagehound.archive_reader import Limits
from sagehound.config import Debugger
from sagehound.errors import ConfigError, InputError, SagehoundError, Stopped
from sagehound.files import replacing, write_json
from sagehound.unpacking import unpack_into
from sagehound_launchers.config import Aws, Launch
from sagehound_launchers.runners import stop_signal, terminable
from sagehound_launchers.sagemaker import account, client, cost, inputs, requests
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.client import Log
from sagehound_launchers.sagemaker.errors import RemoteError, Unreachable, aws_errors, code_of

_KIND = "training_job"
_ENDED = ("Completed", "Failed", "Stopped")
_REQUEST = "request.json"  # in a job's folder: what it was begun with

Outcome: TypeAlias = dict[str, Any] | SagehoundError  # a job's metrics.json, or why there is none


@dataclass(frozen=True)
class Job:
    """One training job before it is started."""

    name: str
    cfg: Launch
    request: dict[str, Any]
    folder: Path  # of its results


def prepare(cloud: Cloud, work: Sequence[tuple[Launch, Sequence[str], Path]]) -> list[Job]:
    """The jobs' requests, after what they need was sent to S3.

    Args:
        cloud: where they will run.
        work: of each job its checked config, its overrides and the folder of its results.

    Raises:
        ConfigError: AWS would refuse a request.
        InputError: photos or weights are missing.
    """
    jobs, sent = [], {}
    for cfg, _, folder in work:
        if not (cfg.overwrite or (folder / _REQUEST).exists()):
            run_folder.refuse_another_run(folder)
    for cfg, overrides, folder in work:
        needed = (cfg.data.name, cfg.data.root, cfg.data.s3, cfg.backbone.weights)
        if needed not in sent:
            sent[needed] = inputs.channels(cloud, cfg)
        given = requests.hyperparameters([*overrides, *_kept(cfg)])
        name, token = client.new_name("sagehound", 63), uuid.uuid4().hex
        debugger = _debugger(cloud, cfg, cfg.debugger) if cfg.debugger else None
        request = requests.training_job(name, cfg, cloud.account, given, sent[needed], token, debugger)
        requests.check("CreateTrainingJob", request)
        request = (None if cfg.overwrite else _begun(folder, request)) or request
        jobs.append(Job(request["TrainingJobName"], cfg, request, folder))
    return jobs


def _begun(folder: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """The request with which an earlier command began the same job in this folder; sent again, it starts nothing.

    Raises:
        ConfigError: the folder is another job's.
    """
    path = folder / _REQUEST
    if not path.exists():
        return None
    before: dict[str, Any] = json.loads(path.read_text())
    for key in ("HyperParameters", "AlgorithmSpecification", "ResourceConfig"):
        if before.get(key) != request[key]:
            raise ConfigError(
                f"{folder} is of a job with other {key}: replace it with overwrite=true, or give another hydra.run.dir "
                "or hydra.sweep.dir"
            )
    console.say(f"following the job {before['TrainingJobName']} again")
    return before


def _kept(cfg: Launch) -> list[str]:
    """What a job keeps beside its scores; what is to go on from a checkpoint must keep one."""
    if cfg.results == "scores" and cfg.aws.spot:
        return ["results=all", "artifact=false"]
    return [f"results={cfg.results}"]


def _debugger(cloud: Cloud, cfg: Launch, debugger: Debugger) -> dict[str, Any]:
    from sagehound_launchers.sagemaker.debugger import notice, request_parts

    console.warn(notice())
    base = f"s3://{cloud.account.bucket}/{cfg.aws.prefix}/jobs"
    return request_parts(debugger, cloud.account.region, base)


def say_cost(cloud: Cloud, aws: Aws, jobs: int) -> None:
    """What jobs cost at most, before the first is started."""
    if not cloud.emulated:
        region, hours = cloud.account.region, aws.max_hours
        console.say(f"cost: {cost.estimate(aws.instance_type, aws.instance_count, hours, region, aws.spot, jobs)}")


class Runner:
    """Jobs that run, ``most`` at a time; their logs are printed as they come, their results fetched as they end."""

    def __init__(self, cloud: Cloud, jobs: Sequence[Job], most: int) -> None:
        self.cloud, self.jobs, self.most = cloud, jobs, most
        self._running: dict[str, Job] = {}
        self._given_up = threading.Event()
        folder = self.jobs[0].folder
        again = f"hydra.run.dir={folder}" if len(jobs) == 1 else f"hydra.sweep.dir={folder.parent}"
        self._again = client.goes_on(cloud, f"the same command with {again} follows on")

    def run(self) -> list[Outcome]:
        """Start the jobs, and wait for the last.

        Returns:
            of each its metrics.json, or why there is none.

        Raises:
            SagehoundError: a job could not be started or followed; those that still run are named.
            Stopped: Ctrl-C or SIGTERM came; the jobs go on, or with aws.stop_on_interrupt are told to stop.
        """
        with terminable(), ThreadPoolExecutor(self.most) as pool:
            ended = [pool.submit(self._one, job) for job in self.jobs]
            try:
                wait(ended, return_when=FIRST_EXCEPTION)
                return [job.result() for job in ended]
            except (KeyboardInterrupt, SagehoundError) as error:
                self._given_up.set()
                wait(ended)  # whatever is being started now is known then
                raise self._given_up_by(error) from error

    def _one(self, job: Job) -> Outcome:
        """One job from start to end; after another one failed to start, or was lost sight of, none is begun."""
        prefix = f"{job.folder.name}| " if len(self.jobs) > 1 else ""
        if self._given_up.is_set():
            return SagehoundError(f"job {job.name} was not started")
        self._running[job.name] = job
        try:
            if job.cfg.overwrite:
                run_folder.remove_run(job.folder, _REQUEST, "job.json")
            write_json(job.folder / _REQUEST, job.request)
            client.start(self.cloud, _KIND, job.name, job.request)
            console.say(f"{prefix}job {job.name} runs; results: {job.folder}")
            ended = self._follow(job, prefix)
        except SagehoundError as error:
            self._given_up.set()
            if not isinstance(error, Unreachable):
                del self._running[job.name]
            raise
        try:
            return collect(self.cloud, job, ended) if ended else SagehoundError(f"job {job.name} was left alone")
        except SagehoundError as error:
            return error

    def _follow(self, job: Job, prefix: str) -> dict[str, Any] | None:
        """What AWS says of a job in the end; None if nobody waits for it any longer."""
        log, status = Log(self.cloud, job.name, prefix), ""
        while not self._given_up.wait(self.cloud.poll):
            found = self._look(job, log)
            if found["SecondaryStatus"] != status:
                status = found["SecondaryStatus"]
                console.say(f"{prefix}job {job.name}: {status}")
            if found["TrainingJobStatus"] in _ENDED:
                time.sleep(self.cloud.poll / 2)  # a log's last lines come late
                self._look(job, log)
                del self._running[job.name]
                return found
        return None

    def _look(self, job: Job, log: Log) -> dict[str, Any]:
        def look() -> dict[str, Any]:
            found = client.describe(self.cloud, _KIND, job.name)
            log.print_new()
            return found

        return client.patiently(self.cloud, job.cfg.aws.patience_minutes, look, self._given_up.is_set)

    def _given_up_by(self, error: BaseException) -> SagehoundError:
        """What to say and return of an error or a signal, and of the jobs that it leaves behind."""
        left = list(self._running)
        said = f"; still on SageMaker: {', '.join(left)}; {self._again}"
        if not isinstance(error, KeyboardInterrupt | Stopped):
            kind = type(error) if isinstance(error, SagehoundError) else SagehoundError
            return kind(f"{error}{said if left else ''}")
        signum = stop_signal(error)
        if self.jobs[0].cfg.aws.stop_on_interrupt:
            said = "; the jobs were told to stop"
            for name in left:
                try:
                    client.stop(self.cloud, _KIND, name)
                except SagehoundError as failure:
                    said += f", but for {name}: {failure}"
        return Stopped(f"stopped by {signum.name}{said if left else ''}", signum)


def collect(cloud: Cloud, job: Job, ended: dict[str, Any]) -> dict[str, Any]:
    """Bring a job's results into its folder: metrics and tables, TensorBoard, model.tar.gz, debugger/tensors.

    Args:
        cloud: where it ran.
        job: what was started.
        ended: what AWS says of it.

    Returns:
        its metrics.json.

    Raises:
        RemoteError: the job failed, or was stopped before it was done.
        SagehoundError: a result could not be fetched; it stays in S3.
    """
    about = {key: ended.get(key) for key in _TOLD} | {"request": job.request}
    write_json(job.folder / "job.json", json.loads(json.dumps(about, default=str)))
    s3, bucket = cloud.client("s3"), cloud.account.bucket
    base = f"{job.cfg.aws.prefix}/jobs/{job.name}"
    with aws_errors(f"fetching the results of {job.name}, which stay in s3://{bucket}/{base}"):
        if _download(s3, bucket, f"{base}/output/output.tar.gz", job.folder / "output.tar.gz"):
            _unpack(job.folder / "output.tar.gz", job.folder)
        _download(s3, bucket, f"{base}/output/model.tar.gz", job.folder / archive.NAME)
        if job.cfg.debugger:
            _download_all(s3, bucket, f"{base}/debug-output/", job.folder / "debugger" / "tensors")
    if ended["TrainingJobStatus"] != "Completed":
        reason = ended.get("FailureReason") or ended["SecondaryStatus"]
        raise RemoteError(f"job {job.name}: {ended['TrainingJobStatus']}: {reason}; its log is printed above")
    try:
        metrics: dict[str, Any] = json.loads((job.folder / "metrics.json").read_text())
    except (OSError, ValueError) as error:
        raise RemoteError(f"job {job.name} left no metrics.json; its log is printed above") from error
    console.say(f"job {job.name}: {ended.get('BillableTimeInSeconds', 0):,} s are billed; results: {job.folder}")
    return metrics


_TOLD = ("TrainingJobName", "TrainingJobArn", "TrainingJobStatus", "SecondaryStatus", "FailureReason",
         "TrainingTimeInSeconds", "BillableTimeInSeconds", "ModelArtifacts", "FinalMetricDataList")  # fmt: skip
_RESULTS = Limits((".tar.gz",), 100_000)
_HERE = {"config.yaml", "overrides.yaml", "hydra.yaml"}  # as they are of this machine's command


def _download(s3: Any, bucket: str, key: str, path: Path) -> bool:  # noqa: ANN401 - boto3 ships no types
    """Fetch an object; False where there is none."""
    from botocore.exceptions import ClientError

    try:
        with replacing(path) as temporary:
            s3.download_file(bucket, key, str(temporary))
    except ClientError as error:
        if code_of(error) not in ("404", "NoSuchKey"):
            raise
        return False
    return True


def _download_all(s3: Any, bucket: str, prefix: str, folder: Path) -> None:  # noqa: ANN401 - boto3 ships no types
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for found in page.get("Contents", []):
            _download(s3, bucket, found["Key"], folder / found["Key"].removeprefix(prefix))


def _unpack(path: Path, folder: Path) -> None:
    hint = "run the same command again to fetch it once more"
    try:
        unpack_into(path, folder, hint=hint, limits=_RESULTS, wanted=lambda inside: str(inside) not in _HERE)
    except InputError as error:
        raise RemoteError(f"{path} cannot be unpacked: {error}") from error
    path.unlink()


def launch(cfgs: Sequence[Launch], overrides: Sequence[Sequence[str]], folders: Sequence[Path]) -> list[Outcome]:
    """Run a training job for each checked config; its results are in its folder then.

    Raises:
        ConfigError: something of AWS's is missing, or it would refuse a request; nothing was started then.
        SagehoundError: a job could not be started or followed.
        Stopped: Ctrl-C or SIGTERM came.
    """
    aws = cfgs[0].aws
    cloud = account.connect(aws)
    jobs = prepare(cloud, list(zip(cfgs, overrides, folders, strict=True)))
    say_cost(cloud, aws, len(jobs))
    if cfgs[0].dry_run:
        return [_written(job) for job in jobs]
    most = max(aws.max_parallel_jobs, cfgs[0].hpo.max_parallel_jobs if cfgs[0].hpo else 1)
    return Runner(cloud, jobs, most).run()


def _written(job: Job) -> Outcome:
    path = job.folder / _REQUEST
    write_json(path, job.request)
    console.say(f"dry_run: nothing was sent; CreateTrainingJob: {path}")
    return {}
