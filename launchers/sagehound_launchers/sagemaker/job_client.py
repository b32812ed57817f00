"""Starts, polls and stops jobs of SageMaker, and prints their logs."""

import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sagehound.errors import ConfigError, SagehoundError
from sagehound.system import console
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import Expired, Unreachable, aws_errors, code_of
from sagehound_launchers.sagemaker.requests import REQUEST

T = TypeVar("T")

_NAME_OF = {  # the argument with a job's name
    "training_job": "TrainingJobName",
    "hyper_parameter_tuning_job": "HyperParameterTuningJobName",
    "processing_job": "ProcessingJobName",
}


def new_name(prefix: str, most: int) -> str:
    """A unique name of a job: the time and some random characters."""
    return f"{prefix}-{time.strftime('%y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"[:most]


def start(cloud: Cloud, kind: str, name: str, request: dict[str, Any]) -> None:
    """Start a job exactly once, even if the connection breaks.

    A request whose response was lost is sent again. If AWS then reports that the name is in use, the job's token shows
    whether it is this one. If the last response is lost too, DescribeTrainingJob shows whether the job exists.

    Args:
        cloud: the account.
        kind: training_job, hyper_parameter_tuning_job or processing_job, as boto3 writes it.
        name: of the job.
        request: with the token in its environment.

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

    return token(existing) is not None and token(existing) == token(request)


def describe(cloud: Cloud, kind: str, name: str) -> dict[str, Any]:
    """AWS's description of a job."""
    with aws_errors(f"looking at {name}"):
        return dict(getattr(cloud.client("sagemaker"), f"describe_{kind}")(**{_NAME_OF[kind]: name}))


def stop(cloud: Cloud, kind: str, name: str) -> None:
    """Stop a job; if it has ended already, do nothing."""
    from botocore.exceptions import ClientError

    with aws_errors(f"stopping {name}"):
        try:
            getattr(cloud.client("sagemaker"), f"stop_{kind}")(**{_NAME_OF[kind]: name})
        except ClientError as error:
            if code_of(error) != "ValidationException":
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
    """The log of a training or processing job, and the position up to which it was printed."""

    def __init__(self, cloud: Cloud, job: str, prefix: str = "", group: str = "/aws/sagemaker/TrainingJobs") -> None:
        self.cloud, self.job, self.prefix, self.group = cloud, job, prefix, group
        self._next: dict[str, str] = {}  # by stream
        self._forbidden = False

    def print_new(self) -> None:
        """Print new lines; a log that does not exist yet is no error."""
        from botocore.exceptions import ClientError

        if self._forbidden:
            return
        logs = self.cloud.client("logs")
        try:
            with aws_errors(f"reading the log of {self.job}"):
                try:
                    streams = logs.describe_log_streams(logGroupName=self.group, logStreamNamePrefix=f"{self.job}/")
                    for name in sorted(s["logStreamName"] for s in streams["logStreams"]):
                        self._print(logs, name)
                except ClientError as error:
                    if code_of(error) != "ResourceNotFoundException":
                        raise
        except Expired:
            raise
        except ConfigError as error:
            self._forbidden = True  # errors of the log do not matter to the job
            console.warn(str(error))

    def _print(self, logs: Any, stream: str) -> None:  # noqa: ANN401 - boto3 ships no types
        while True:
            token = self._next.get(stream)
            response = logs.get_log_events(
                logGroupName=self.group,
                logStreamName=stream,
                startFromHead=True,
                **({"nextToken": token} if token else {}),
            )
            for event in response["events"]:
                if not event["message"].startswith("metric: "):  # a line for the service
                    console.info(f"{self.prefix}{event['message']}")
            self._next[stream] = response["nextForwardToken"]
            if response["nextForwardToken"] == token:
                return
