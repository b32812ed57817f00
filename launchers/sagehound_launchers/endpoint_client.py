"""Sends photos to an endpoint: by address, or by its name on SageMaker, synchronous, asynchronous or multi-model."""

import hashlib
import json
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from sagehound.errors import ConfigError, InputError
from sagehound.inference.formats import PhotoResult
from sagehound.serving.access import own_token
from sagehound_launchers.config import Aws
from sagehound_launchers.config.extras import needs

if TYPE_CHECKING:
    from sagehound_launchers.sagemaker.account import AwsSession

_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
_TRIES = 6  # attempts for a photo if the endpoint is busy
_BUSY = (429, 502, 503, 504)  # status of a server that may answer later
_CODES = {"ModelNotReadyException", "ThrottlingException", "ServiceUnavailable", "InternalFailure", "SlowDown"}
_LONGEST = 10.0  # seconds between two attempts

Ask: TypeAlias = Callable[[bytes, str], PhotoResult]  # a photo's bytes and content type to the response


class NoPrediction(InputError):
    """The endpoint returned no prediction; the message says why."""


class _Busy(Exception):
    """The endpoint may answer later."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait  # seconds, if the endpoint gave them


def content_type(name: str) -> str:
    """The content type of a photo's file."""
    return _TYPES.get(Path(name).suffix.lower(), "application/x-image")


def connect(
    target: str,
    aws: Aws | None = None,
    *,
    clients: int = 8,
    timeout: float = 60.0,
    top_k: int = 5,
    model: str | None = None,
) -> Ask:
    """A function that sends a photo and returns the response. It retries with growing pauses.

    Args:
        target: an address, alone or with /invocations, /models/NAME or /models/NAME/invoke; or the name of an endpoint
            on SageMaker.
        aws: profile and region, or the emulator; None: as boto3 finds them.
        clients: photos that are sent at a time.
        timeout: seconds for a response.
        top_k: labels in a response.
        model: TargetModel of a multi-model endpoint, with or without .tar.gz.

    Raises:
        ConfigError: credentials or a region are missing, or there is no such endpoint.
    """
    if target.startswith(("http://", "https://")):
        return _patient(_over_http(target, clients, timeout, top_k))
    return _patient(_over_sagemaker(target, aws, clients, timeout, top_k, model))


def predict(
    ask: Ask, photos: Iterable[tuple[str, Path | bytes | InputError]], clients: int
) -> Iterator[tuple[str, PhotoResult | InputError]]:
    """Send photos, ``clients`` at a time; yield the responses in order."""
    with ThreadPoolExecutor(clients) as pool:
        ahead: deque[tuple[str, Future[PhotoResult]]] = deque()
        for name, photo in photos:
            ahead.append((name, pool.submit(_read_and_ask, ask, name, photo)))
            if len(ahead) > 2 * clients:
                yield _result(*ahead.popleft())
        while ahead:
            yield _result(*ahead.popleft())


def _read_and_ask(ask: Ask, name: str, photo: Path | bytes | InputError) -> PhotoResult:
    if isinstance(photo, InputError):
        raise photo
    try:
        content = photo if isinstance(photo, bytes) else photo.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from error
    return ask(content, content_type(name))


def _result(name: str, response: Future[PhotoResult]) -> tuple[str, PhotoResult | InputError]:
    try:
        return name, response.result()
    except InputError as error:
        return name, error


def _patient(ask: Ask) -> Ask:
    """Retry with pauses that double, and a random part, so that clients do not come back together."""

    def retry(photo: bytes, content_type: str) -> PhotoResult:
        pause = 0.5
        for attempt in range(1, _TRIES + 1):
            try:
                return ask(photo, content_type)
            except _Busy as busy:
                if attempt == _TRIES:
                    raise NoPrediction(str(busy)) from busy
                time.sleep(min(_LONGEST, pause if busy.wait is None else busy.wait) * random.uniform(0.5, 1))
                pause *= 2
        raise AssertionError

    return retry


def _over_http(endpoint: str, clients: int, timeout: float, top_k: int) -> Ask:
    import urllib3

    url = endpoint.rstrip("/")
    if not url.endswith(("/invocations", "/invoke")):
        url += "/invoke" if "/models/" in url else "/invocations"
    pool = urllib3.PoolManager(maxsize=clients, retries=False, timeout=timeout)
    common = {"Accept": f"application/json; top_k={top_k}", **own_token()}

    def ask(photo: bytes, content_type: str) -> PhotoResult:
        try:
            answer = pool.request("POST", url, photo, headers={"Content-Type": content_type, **common})
        except urllib3.exceptions.HTTPError as error:
            raise NoPrediction(f"no connection: {error}") from error
        if answer.status in _BUSY:
            wait = answer.headers.get("Retry-After", "")
            raise _Busy(_reason(answer.status, answer.data), float(wait) if wait.isdecimal() else None)
        return _read(answer.status, answer.data)

    return ask


def _over_sagemaker(endpoint: str, aws: Aws | None, clients: int, timeout: float, top_k: int, model: str | None) -> Ask:
    needs(f"endpoint={endpoint}", "sagemaker", "boto3")
    from botocore.exceptions import BotoCoreError, ClientError

    from sagehound_launchers.sagemaker.account import open_session
    from sagehound_launchers.sagemaker.aws_errors import code_of

    session = open_session(aws or Aws(name="account"), connections=clients, seconds=timeout)
    client = session.client("sagemaker-runtime")
    target = {"TargetModel": f"{model.removesuffix('.tar.gz')}.tar.gz"} if model else {}
    async_folder = cache(partial(_async_folder, session, endpoint))
    if session.own:
        _await_own(session, endpoint)

    def ask(photo: bytes, content_type: str) -> PhotoResult:
        given = {"EndpointName": endpoint, "ContentType": content_type, "Accept": f"application/json; top_k={top_k}"}
        try:
            return _read(200, client.invoke_endpoint(Body=photo, **given, **target)["Body"].read())
        except ClientError as error:
            if code_of(error) != "ValidationError" or not (folder := async_folder()):
                raise _refusal(error) from error
        except BotoCoreError as error:
            raise NoPrediction(str(error)) from error
        try:
            return _ask_async(session, folder, photo, given, timeout)
        except (ClientError, BotoCoreError) as error:
            raise _refusal(error) from error

    return ask


def _refusal(error: Exception) -> Exception:
    """What to raise for an error of boto3: whether the photo is sent again, or the message of the model's server."""
    response = getattr(error, "response", {})
    if "OriginalMessage" in response:
        return NoPrediction(_reason(response.get("OriginalStatusCode", 500), str(response["OriginalMessage"]).encode()))
    from sagehound_launchers.sagemaker.aws_errors import code_of

    return (_Busy if code_of(error) in _CODES else NoPrediction)(str(error))


def _await_own(session: "AwsSession", endpoint: str) -> None:
    """Wait until this command's emulator, which has just started, has started its containers."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            status = session.client("sagemaker").describe_endpoint(EndpointName=endpoint)["EndpointStatus"]
        except session.client("sagemaker").exceptions.ClientError:
            return
        if status not in ("Creating", "SystemUpdating"):
            return
        time.sleep(0.2)


def _async_folder(session: "AwsSession", endpoint: str) -> str | None:
    """Where photos for an asynchronous endpoint are put, s3://BUCKET/PREFIX; None if it is synchronous or not known.

    Raises:
        ConfigError: there is no such endpoint.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from sagehound_launchers.sagemaker.aws_errors import code_of

    sagemaker = session.client("sagemaker")
    try:
        config = sagemaker.describe_endpoint(EndpointName=endpoint).get("EndpointConfigName")
        described = sagemaker.describe_endpoint_config(EndpointConfigName=config) if config else {}
    except BotoCoreError:
        return None  # only the runtime can be reached
    except ClientError as error:
        if code_of(error) != "ValidationException":
            return None  # these credentials may call, and nothing else
        raise ConfigError(
            f"{endpoint}: no endpoint of this name in {session.region}; sagehound launch list shows yours"
        ) from error
    output = described.get("AsyncInferenceConfig", {}).get("OutputConfig", {}).get("S3OutputPath")
    return f"{output.rstrip('/').removesuffix('/out')}/in" if output else None


def _ask_async(session: "AwsSession", folder: str, photo: bytes, given: dict[str, str], timeout: float) -> PhotoResult:
    """Put a photo into S3, call the endpoint, and wait for its answer there."""
    from botocore.exceptions import ClientError

    s3, client = session.client("s3"), session.client("sagemaker-runtime")
    bucket, _, prefix = folder.removeprefix("s3://").partition("/")
    key = f"{prefix}/{hashlib.sha256(photo).hexdigest()}"
    s3.put_object(Bucket=bucket, Key=key, Body=photo, ContentType=given["ContentType"])
    called = client.invoke_endpoint_async(InputLocation=f"s3://{bucket}/{key}", **given)
    places = [(called["OutputLocation"], True)]
    if called.get("FailureLocation"):
        places.append((called["FailureLocation"], False))
    end, pause = time.monotonic() + timeout, 0.1
    while time.monotonic() < end:
        for uri, is_result in places:
            at, _, name = uri.removeprefix("s3://").partition("/")
            try:
                body = s3.get_object(Bucket=at, Key=name)["Body"].read()
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (403, 404):
                    raise
                continue
            if is_result:
                return _read(200, body)
            raise NoPrediction(body.decode(errors="replace"))
        time.sleep(pause)
        pause = min(2 * pause, 5)
    raise NoPrediction(f"no result after {timeout:g} s; it is written to {called['OutputLocation']}")


def photos_in_s3(uri: str, aws: Aws | None) -> Iterator[tuple[str, bytes]]:
    """Every photo at s3://BUCKET/KEY or below s3://BUCKET/PREFIX: its address and content.

    Raises:
        InputError: there is none.
    """
    needs(uri, "sagemaker", "boto3")
    from sagehound.data.folders import is_photo
    from sagehound_launchers.sagemaker.account import open_session
    from sagehound_launchers.sagemaker.aws_errors import aws_errors

    s3, none = open_session(aws or Aws(name="account")).client("s3"), True
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    with aws_errors(f"reading {uri}"):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                key = item["Key"]
                inside = key == prefix or not prefix or prefix.endswith("/") or key.startswith(f"{prefix}/")
                if inside and is_photo(key):
                    none = False
                    yield f"s3://{bucket}/{key}", s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    if none:
        raise InputError(f"{uri}: no photo is there")


def _read(status: int, body: bytes) -> PhotoResult:
    try:
        response: PhotoResult = json.loads(body)
        if status == 200 and response["top"][0]["label"] is not None:
            return response
    except (ValueError, KeyError, TypeError, IndexError):
        pass
    raise NoPrediction(_reason(status, body))


def _reason(status: int, body: bytes) -> str:
    try:
        return f"{json.loads(body)['error']['message']} (status {status})"
    except (ValueError, KeyError, TypeError):
        return f"status {status}: not a response of a Sagehound server: {body[:80]!r}"
