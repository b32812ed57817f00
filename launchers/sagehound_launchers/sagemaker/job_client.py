"""Starts, follows and stops jobs of SageMaker, and prints their logs."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sagehound.errors import ConfigError, SagehoundError, Stopped
from sagehound.system import console
from sagehound_launchers.config import Aws
from sagehound_launchers.sagemaker import hosting_requests
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import Expired, Unreachable, aws_errors, code_of
from sagehound_launchers.sagemaker.requests import REQUEST
from sagehound_launchers.search.runners import raise_lost_signal, stop_signal, terminable

T = TypeVar("T")
_NAMES = {  # the member of a request that names a job, by kind
    "training_job": "TrainingJobName",
    "processing_job": "ProcessingJobName",
    "transform_job": "TransformJobName",
    "hyper_parameter_tuning_job": "HyperParameterTuningJobName",
}
_ENDED = ("Completed", "Failed", "Stopped")
_ATTEMPTS = 100  # jobs of one content


@dataclass(frozen=True)
class OneJob:
    """A job whose name follows from its content, so that the same command follows it.

    Attributes:
        kind: transform_job or processing_job, as boto3 writes it.
        name: of the first attempt; 60 characters at most. The others are NAME-2, NAME-3, ...
        request: makes the request of an attempt from its name.
        prepare: makes what an attempt reads, given its name, before it is started.
        is_usable: whether an ended job, given its description, still has results that this command can use.
        log: the group of its log, which is printed; None: it is not.
    """

    kind: str
    name: str
    request: Callable[[str], dict[str, Any]]
    prepare: Callable[[str], None]
    is_usable: Callable[[dict[str, Any]], bool]
    log: str | None


def new_name(prefix: str, most: int) -> str:
    """A unique name of a job: the time and some random characters."""
    return f"{prefix}-{time.strftime('%y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"[:most]


def content_name(prefix: str, *content: Any) -> str:  # noqa: ANN401 - whatever json can write
    """A name of at most 60 characters that follows from a job's content."""
    return hosting_requests.named(prefix, json.dumps(content, sort_keys=True))


def start(cloud: Cloud, kind: str, name: str, request: dict[str, Any]) -> None:
    """Start a job exactly once, even if the connection breaks.

    A request whose response was lost is sent again. If AWS then reports that the name is in use, the job's token shows
    whether it is this one. If the last response is lost too, DescribeTrainingJob shows whether the job exists.

    Args:
        cloud: the account.
        kind: training_job, processing_job, transform_job or hyper_parameter_tuning_job, as boto3 writes it.
        name: of the job.
        request: with a token in its environment, unless the name follows from the content.

    Raises:
        Unreachable: it is unknown whether it was started.
        SagehoundError: it was not started.
    """
    from botocore.exceptions import ClientError

    sagemaker = cloud.client("sagemaker")
    try:
        with aws_errors(f"starting {name}"):
            try:
                getattr(sagemaker, f"create_{kind}")(**request)
            except ClientError as error:
                if code_of(error) != "ResourceInUse" or not _is_ours(describe(cloud, kind, name), request):
                    raise
    except Unreachable as lost:
        try:
            existing = describe(cloud, kind, name)
        except Unreachable:
            raise lost from None
        except SagehoundError:  # there is no such job
            raise SagehoundError(str(lost)) from lost
        if not _is_ours(existing, request):
            raise


def _is_ours(existing: dict[str, Any], request: dict[str, Any]) -> bool:
    def token(of: dict[str, Any]) -> Any:  # noqa: ANN401 - whatever AWS answered
        return of.get("TrainingJobDefinition", of).get("Environment", {}).get(REQUEST)

    return token(request) is None or token(existing) == token(request)


def describe(cloud: Cloud, kind: str, name: str) -> dict[str, Any]:
    """AWS's description of a job."""
    with aws_errors(f"looking at {name}"):
        return dict(getattr(cloud.client("sagemaker"), f"describe_{kind}")(**{_NAMES[kind]: name}))


def run(cloud: Cloud, aws: Aws, job: OneJob) -> dict[str, Any]:
    """Start a job, or follow the one of the same content, and wait for its end.

    A job that has ended without usable results is replaced by another attempt, because AWS takes a name once.

    Returns:
        AWS's last description of it.

    Raises:
        SagehoundError: it could not be started or followed.
        Stopped: Ctrl-C or SIGTERM came. The job continues, or with aws.stop_on_interrupt is stopped.
    """
    status = _NAMES[job.kind].replace("Name", "Status")
    for attempt in range(1, _ATTEMPTS):
        name = job.name if attempt == 1 else f"{job.name}-{attempt}"
        before = _find(cloud, job.kind, name)
        if before is None or before[status] not in _ENDED or job.is_usable(before):
            break
    words = f"{job.kind.replace('_', ' ')} {name}"
    with _interruptible(cloud, aws, job.kind, name):
        if before is None:
            job.prepare(name)
            start(cloud, job.kind, name, job.request(name))
            console.info(f"{words} runs")
        else:
            console.info(f"following the {words} again")
        begin = time.monotonic()
        described = _follow(cloud, aws, job, name, status)
    console.info(f"{words}: {described[status]} ({time.monotonic() - begin:.0f} s)")
    return described


def has_result(cloud: Cloud, ended: dict[str, Any], name: str) -> bool:
    """Whether a processing job is completed, and a file of its result is still in S3."""
    from botocore.exceptions import ClientError

    uri = ended["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["S3Uri"]
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    with aws_errors(f"looking at the result of {ended['ProcessingJobName']}"):
        try:
            cloud.client("s3").head_object(Bucket=bucket, Key=f"{prefix}/{name}")
        except ClientError as error:
            if code_of(error) not in ("404", "NoSuchKey"):
                raise
            return False
    return bool(ended["ProcessingJobStatus"] == "Completed")


def _find(cloud: Cloud, kind: str, name: str) -> dict[str, Any] | None:
    """AWS's description of a job; None if there is none."""
    from botocore.exceptions import ClientError

    try:
        return describe(cloud, kind, name)
    except SagehoundError as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and code_of(cause) in ("ValidationException", "ResourceNotFound"):
            return None
        raise


def _follow(cloud: Cloud, aws: Aws, job: OneJob, name: str, status: str) -> dict[str, Any]:
    """Wait until a job has ended, and print its log meanwhile; returns its last description."""
    log = Log(cloud, name, group=job.log) if job.log else None

    def look() -> dict[str, Any]:
        described = describe(cloud, job.kind, name)
        if log:
            log.print_new()
        return described

    while (described := poll_until(cloud, aws.patience_minutes, look))[status] not in _ENDED:
        time.sleep(cloud.poll)
    if log:
        time.sleep(cloud.poll / 2)  # the last lines of a log arrive late
        log.print_new()
    return described


@contextmanager
def _interruptible(cloud: Cloud, aws: Aws, kind: str, name: str) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into Stopped, which says whether the job continues."""
    try:
        with terminable():
            yield
    except (KeyboardInterrupt, Stopped) as error:
        signum = stop_signal(error)
        note = f"the job {name} continues; {resume_hint(cloud, 'the same command follows it again')}"
        if aws.stop_on_interrupt:
            try:
                stop(cloud, kind, name)
                note = f"the job {name} is being stopped"
            except SagehoundError as failure:
                note = f"the job {name} could not be stopped: {failure}"
        raise Stopped(f"stopped by {signum.name}; {note}", signum) from error


def stop(cloud: Cloud, kind: str, name: str) -> None:
    """Stop a job; if it has ended already, do nothing."""
    from botocore.exceptions import ClientError

    with aws_errors(f"stopping {name}"):
        try:
            getattr(cloud.client("sagemaker"), f"stop_{kind}")(**{_NAMES[kind]: name})
        except ClientError as error:
            if code_of(error) not in ("ValidationException", "ResourceNotFound"):
                raise


def poll_until(cloud: Cloud, minutes: float, poll: Callable[[], T], given_up: Callable[[], bool] = lambda: False) -> T:
    """Poll a job; retry while AWS is unreachable or credentials have expired. The job is not affected.

    Args:
        cloud: the account.
        minutes: time without a response after which the last error is raised.
        poll: calls AWS, with boto3's retries.
        given_up: whether to raise at once.
    """
    end, is_reported = time.monotonic() + 60 * minutes, False
    while True:
        raise_lost_signal()  # of a SIGTERM in the middle of the last request
        try:
            return poll()
        except Unreachable as error:
            if given_up() or time.monotonic() > end:
                raise
            if not is_reported:
                console.warn(f"{error}; retrying for {minutes:g} minutes")
                is_reported = True
            time.sleep(cloud.poll)


def resume_hint(cloud: Cloud, how: str) -> str:
    """A hint how to follow or stop jobs that still run."""
    if cloud.own:
        return "this command's emulator ended with it; sagemaker-emulator keeps one running"
    return how


class Log:
    """The log of a job or an endpoint, and the position up to which it was printed."""

    def __init__(self, cloud: Cloud, job: str, prefix: str = "", group: str = "/aws/sagemaker/TrainingJobs") -> None:
        self.cloud, self.job, self.prefix = cloud, job, prefix
        of_endpoint = group.rpartition("/")[2] == "Endpoints"  # which has a group of its own
        self._group, self._streams = (f"{group}/{job}", "") if of_endpoint else (group, f"{job}/")
        self._next: dict[str, str] = {}  # by stream
        self._forbidden = False

    def print_new(self) -> None:
        """Print new lines; a log that does not exist yet is no error."""
        from botocore.exceptions import ClientError

        if self._forbidden:
            return
        logs, group = self.cloud.client("logs"), self._group
        try:
            with aws_errors(f"reading the log of {self.job}"):
                try:
                    prefix = {"logStreamNamePrefix": self._streams} if self._streams else {}
                    streams = logs.describe_log_streams(logGroupName=group, **prefix)
                    for name in sorted(s["logStreamName"] for s in streams["logStreams"]):
                        self._print(logs, group, name)
                except ClientError as error:
                    if code_of(error) != "ResourceNotFoundException":
                        raise
        except Expired:
            raise
        except ConfigError as error:
            self._forbidden = True  # errors of the log do not matter to the job
            console.warn(str(error))

    def _print(self, logs: Any, group: str, stream: str) -> None:  # noqa: ANN401 - boto3 ships no types
        while True:
            token = self._next.get(stream)
            response = logs.get_log_events(
                logGroupName=group,
                logStreamName=stream,
                startFromHead=True,
                **({"nextToken": token} if token else {}),
            )
            for event in response["events"]:
                if not event["message"].startswith("metric: "):  # a line for the service
                    line = event["message"].rstrip("\r").rpartition("\r")[2]  # the last state of a progress bar
                    console.info(f"{self.prefix}{line}")
            self._next[stream] = response["nextForwardToken"]
            if response["nextForwardToken"] == token:
                return
