"""Predictions of photos by a model on this machine, a server, or an endpoint on SageMaker. Imports no torch."""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from sagehound.artifact.archive import find, opened
from sagehound.data.folders import LeftOut, photos_below
from sagehound.errors import ConfigError, InputError, SagehoundError
from sagehound.inference.formats import PhotoResult, Probabilities, ResponseFormat, photo_result
from sagehound.inference.request_body import JSON
from sagehound.serving.batcher import Batcher
from sagehound.serving.predictor import Predictor

if TYPE_CHECKING:
    from sagehound_launchers.config import Aws

_AHEAD = 64  # photos in progress
_ENDPOINT = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")  # an endpoint's name: AWS's API reference, EndpointName
_FLAGS = {"aws.region=": "--region ", "aws.profile=": "--profile ", "aws=emulator": "--emulator"}  # of this command

_HOST = re.compile(r"[\w.-]+:\d+(/.*)?")

Named: TypeAlias = tuple[str, Path | bytes | InputError]  # a photo's name, and its file, content or error
Result: TypeAlias = tuple[str, PhotoResult | InputError]  # a photo's name, and its prediction or error


@dataclass(frozen=True)
class Remote:
    """How an endpoint and photos in S3 are reached."""

    region: str | None = None  # None: as boto3 finds it
    profile: str | None = None
    emulator: str | None = None  # folder of the emulator's state; None: an account
    target_model: str | None = None  # of a multi-model endpoint
    registry_dir: str = "outputs/registry"  # folder of registry:NAME
    clients: int = 8  # photos that are sent at a time
    timeout: float = 60.0  # seconds for a response


@dataclass(frozen=True)
class _Places:
    """Where models are registered."""

    aws: "Aws"
    registry_dir: str


def predict(target: str, photos: Iterable[str], top_k: int = 1, remote: Remote = Remote()) -> Iterator[Result]:
    """Predict photos; yield each one's name with its prediction, or with the reason why there is none.

    Args:
        target: a run's folder, a model.tar.gz, registry:NAME[@VERSION], the address of a server, or the name of an
            endpoint on SageMaker.
        photos: files, folders with photos, and s3://BUCKET/PREFIX.
        top_k: labels of a prediction.
        remote: how an endpoint and photos in S3 are reached.

    Raises:
        InputError: there is no such model.
        ConfigError: credentials or a region are missing.
    """
    named = _named(photos, remote)
    if _HOST.fullmatch(target) and not Path(target).exists():
        raise ConfigError(f"{target}: did you mean http://{target}?")
    if target.startswith("registry:"):
        from sagehound_launchers.packages import find

        target = find.model(target, _Places(_aws(remote), remote.registry_dir))
    if _is_local(target):
        return _here(target, named, top_k)
    return _there(target, named, top_k, remote)


def _is_local(target: str) -> bool:
    if target.startswith(("http://", "https://")):
        return False
    return Path(target).expanduser().exists() or not _ENDPOINT.fullmatch(target)


def _named(photos: Iterable[str], remote: Remote) -> Iterator[Named]:
    """Each photo of files, folders and S3."""
    for photo in photos:
        path = Path(photo).expanduser()
        if photo.startswith("s3://"):
            from sagehound_launchers.endpoint_client import photos_in_s3

            yield from photos_in_s3(photo, _aws(remote))
        elif path.is_dir():
            left_out, is_empty = LeftOut(), True
            for name in photos_below(path, left_out):
                is_empty = False
                yield str(path / name), path / name
            for error in left_out.folders:
                yield str(path), error
            if is_empty and not left_out.folders:
                yield photo, InputError("no photo lies in this folder or below")
        else:
            yield photo, path


def _here(model: str, photos: Iterable[Named], top_k: int) -> Iterator[Result]:
    """Yield each photo in order, with its prediction or the error."""
    with opened(model) as folder:
        predictor = Predictor(folder)
        batcher = Batcher(on_batch=lambda _: None)
        want = ResponseFormat(JSON, top_k)
        try:
            ahead: deque[tuple[str, Future[Probabilities] | InputError]] = deque()
            for name, photo in photos:
                ahead.append((name, photo if isinstance(photo, InputError) else batcher.submit(predictor, photo)))
                if len(ahead) == _AHEAD:
                    yield _prediction(predictor, want, *ahead.popleft())
            while ahead:
                yield _prediction(predictor, want, *ahead.popleft())
        finally:
            batcher.close()


def _prediction(
    predictor: Predictor, want: ResponseFormat, name: str, future: Future[Probabilities] | InputError
) -> Result:
    if isinstance(future, InputError):
        return name, future
    try:
        return name, photo_result(predictor.card.classes, future.result(), want)
    except InputError as error:
        return name, error


def _there(target: str, photos: Iterable[Named], top_k: int, remote: Remote) -> Iterator[Result]:
    from sagehound_launchers import endpoint_client

    is_address = target.startswith(("http://", "https://"))
    try:
        ask = endpoint_client.connect(
            target,
            _aws(remote),
            clients=remote.clients,
            timeout=remote.timeout,
            top_k=top_k,
            model=remote.target_model,
        )
        yield from endpoint_client.predict(ask, photos, remote.clients)
    except ConfigError as error:  # of the account or of the endpoint; photos have errors of their own
        raise error if is_address else _neither(target, error) from error


def _neither(target: str, error: ConfigError) -> SagehoundError:
    """The error for a name that is neither a run nor an endpoint."""
    try:
        find(target)
    except InputError as missing:
        reason = str(error)
        for key, flag in _FLAGS.items():
            reason = reason.replace(key, flag)
        return InputError(f"{missing}, and no endpoint on SageMaker: {reason}")
    return error


def _aws(remote: Remote) -> "Aws":
    from sagehound_launchers.config import Aws

    if remote.emulator:
        return Aws(name="emulator", folder=remote.emulator)
    return Aws(name="account", profile=remote.profile, region=remote.region)
