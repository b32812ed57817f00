"""What every emulated service shares: the folder, records that survive a restart, S3, logs, and threads."""

import json
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar
from urllib.parse import quote, unquote

from sagehound import console
from sagehound.files import write_json
from sagehound_launchers.emulator.control import Control
from sagehound_launchers.emulator.refused import Refused as Refused
from sagehound_launchers.emulator.watch import Watch

ACCOUNT = "123456789012"
REGION = "us-west-2"
STOPPED = "InternalServerError: the emulator was stopped"  # why what ran when it ended is Failed
KEYS = {"aws_access_key_id": "emulator", "aws_secret_access_key": "emulator"}  # no one checks them

Record: TypeAlias = dict[str, Any]
Service = TypeVar("Service")


class Failed(Exception):
    """Why a job ends as Failed, with AWS's prefix: ``ClientError: ...``."""


@dataclass(frozen=True)
class Settings:
    """What a user or a test may choose."""

    region: str = REGION
    images: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict)  # regex of an image: {"train": command}
    grace: float = 120.0  # seconds between SIGTERM and SIGKILL; AWS's own
    sync: float = 1.0  # seconds between two looks at a job's checkpoints
    hang: float = 60.0  # seconds of a fault of kind timeout
    startup: float = 480.0  # seconds until a model's container must answer /ping with 200; AWS's own
    answer: float = 60.0  # seconds that it may take for one request to an endpoint; AWS's own


class Objects(Protocol):
    """S3's objects, without a request over the network."""

    def has_bucket(self, bucket: str) -> bool:
        """Whether the bucket exists."""

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """The keys that start so, in S3's order; none where there is no such bucket."""

    def path(self, bucket: str, key: str) -> Path | None:
        """The file that holds an object; it must not be written."""

    def put(self, bucket: str, key: str, content: bytes | Path, content_type: str | None = None) -> None:
        """Make or replace an object.

        Raises:
            KeyError: there is no such bucket.
        """


class Cloud(Protocol):
    """What the emulator asks of the other services, without a request over the network."""

    def has_role(self, arn: str) -> bool:
        """Whether IAM has the role."""

    def log(self, group: str, stream: str, events: list[tuple[int, str]]) -> None:
        """Add events (milliseconds since 1970, text) to a log stream, which is made where there is none."""

    def metric(self, namespace: str, name: str, dimensions: Mapping[str, str], value: float, moment: float) -> None:
        """Put one value to CloudWatch."""


class World:
    """One emulated account in one region; everything that is to survive lies under its folder."""

    def __init__(self, folder: Path, settings: Settings, objects: Objects, cloud: Cloud) -> None:
        self.folder = folder.absolute()
        self.settings, self.objects, self.cloud = settings, objects, cloud
        self.region, self.account = settings.region, ACCOUNT
        self.url = ""  # known once the server listens
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self.watch = Watch()
        self.control = Control()
        self._records: dict[str, dict[str, Record]] = {}
        self._services: dict[type, Any] = {}
        self._threads: list[threading.Thread] = []
        shutil.rmtree(self.folder / "temporary", ignore_errors=True)  # of an emulator that was killed
        for file in sorted((self.folder / "records").glob("*/*.json")):
            kind = self._records.setdefault(file.parent.name, {})
            kind[unquote(file.stem)] = json.loads(file.read_text(encoding="utf-8"))

    # Names and services

    def arn(self, kind: str, name: str) -> str:
        """An ARN of this account: ``world.arn("training-job", name)``."""
        return f"arn:aws:sagemaker:{self.region}:{self.account}:{kind}/{name}"

    def add_service(self, service: object) -> None:
        """Make a service known to the others."""
        self._services[type(service)] = service

    def service(self, kind: type[Service]) -> Service:
        """The one service of this class."""
        found: Service = self._services[kind]
        return found

    def client(self, service: str) -> Any:  # noqa: ANN401 - boto3 ships no types
        """A boto3 client of the emulator itself."""
        import boto3

        return boto3.client(service, region_name=self.region, endpoint_url=self.url, **KEYS)

    # Records

    def all(self, kind: str) -> list[Record]:
        """All records of a kind, the oldest first."""
        with self.lock:
            return list(self._records.get(kind, {}).values())

    def find(self, kind: str, name: str) -> Record | None:
        """The record, or None. It is the living object: change it under ``world.lock`` and ``save`` it."""
        with self.lock:
            return self._records.get(kind, {}).get(name)

    def save(self, kind: str, name: str, record: Record) -> None:
        """Keep a new or a changed record."""
        with self.lock:
            self._records.setdefault(kind, {})[name] = record
            write_json(self._file(kind, name), record)

    def change(self, kind: str, name: str, **members: Any) -> Record:  # noqa: ANN401 - whatever AWS answers with
        """Change members of a record (None removes one) and keep it."""
        with self.lock:
            record = self._records[kind][name]
            record.update(members)
            for key in [k for k, v in members.items() if v is None]:
                del record[key]
            self.save(kind, name, record)
            return record

    def remove(self, kind: str, name: str) -> None:
        """Forget a record."""
        with self.lock:
            self._records.get(kind, {}).pop(name, None)
            self._file(kind, name).unlink(missing_ok=True)

    def _file(self, kind: str, name: str) -> Path:
        return self.folder / "records" / kind / f"{quote(name, safe='')}.json"

    # Threads

    def background(self, function: Callable[..., None], *args: Any) -> threading.Thread:  # noqa: ANN401 - any thread's
        """Run a function beside; an error that escapes it is printed, as nobody else would hear of it."""

        def run() -> None:
            try:
                function(*args)
            except Exception as error:
                console.warn(f"emulator: {getattr(function, '__name__', 'a task')}: {error!r}")

        thread = threading.Thread(target=run, daemon=True)
        with self.lock:
            self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()
        return thread

    def close(self, timeout: float = 30.0) -> None:
        """Let the threads end (``stopping`` tells them to), then kill what processes are left."""
        self.stopping.set()
        until = time.monotonic() + timeout
        for thread in list(self._threads):
            thread.join(max(until - time.monotonic(), 0))
        self.watch.close()

    # S3

    def read_object(self, uri: str) -> bytes:
        """An object's content.

        Raises:
            Failed: there is none.
        """
        bucket, key = split_uri(uri)
        path = self.objects.path(bucket, key)
        if path is None:
            raise Failed(_missing(self.objects, uri))
        return path.read_bytes()

    def list_objects(self, uri: str) -> list[tuple[str, str]]:
        """The objects under a prefix, as (URI, name beneath the prefix); folders' empty markers are left out.

        Raises:
            Failed: there are none.
        """
        bucket, prefix = split_uri(uri)
        keys = [k for k in self.objects.keys(bucket, prefix) if not k.endswith("/")]
        if not keys:
            raise Failed(_missing(self.objects, uri))
        return [(f"s3://{bucket}/{k}", k[len(prefix) :].lstrip("/") or k.rpartition("/")[2]) for k in keys]

    def list_manifest(self, uri: str) -> list[tuple[str, str]]:
        """The objects that a ManifestFile names: ``[{"prefix": "s3://bucket/a/"}, "b.jpg", ...]``.

        Raises:
            Failed: there is no manifest, or it does not have this form.
        """
        try:
            first, *names = json.loads(self.read_object(uri))
            return [(first["prefix"] + name, name) for name in names]
        except (ValueError, KeyError, TypeError) as error:
            raise Failed(f"ClientError: Data download failed:Unable to parse manifest file {uri}") from error

    def fetch(self, objects: list[tuple[str, str]], folder: Path) -> None:
        """Copy listed objects to a folder, under their names.

        Raises:
            Failed: one of them is gone, or its name leads out of the folder or cannot be that of a file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for uri, name in objects:
            found, target = self.objects.path(*split_uri(uri)), folder / name
            if found is None:
                raise Failed(_missing(self.objects, uri))
            if not target.resolve().is_relative_to(folder.resolve()):
                raise Failed(f"ClientError: Data download failed:{uri} leads out of the channel's folder")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(found, target)
            except OSError as error:  # "a" and "a/b" are both objects, or a name is too long for a file's
                raise Failed(f"ClientError: Data download failed:{uri}: {error.strerror}") from error

    def upload_folder(self, folder: Path, uri: str, known: dict[str, tuple[int, int]] | None = None) -> None:
        """Upload a folder's files beneath a prefix.

        Args:
            folder: temporary files (names that start with a dot and end in .tmp) are left out.
            uri: the prefix.
            known: sizes and times of what was uploaded before; those files are left out, and it is brought up to date.

        Raises:
            Failed: there is no such bucket.
        """
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if path.name.startswith(".") and path.name.endswith(".tmp"):
                continue
            name = path.relative_to(folder).as_posix()
            try:
                stat = path.stat()
                if known is not None and known.get(name) == (stat.st_size, stat.st_mtime_ns):
                    continue
                self.put_object(f"{uri.rstrip('/')}/{name}", path)
            except FileNotFoundError:
                continue  # the job took it away meanwhile
            if known is not None:
                known[name] = (stat.st_size, stat.st_mtime_ns)

    def upload_tar(self, folder: Path, uri: str) -> None:
        """Upload a folder's content as one tar.gz.

        Raises:
            Failed: there is no such bucket.
        """
        (self.folder / "temporary").mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder / "temporary", suffix=".tar.gz") as archive:
            with tarfile.open(archive.name, "w:gz", compresslevel=1) as tar:
                for path in sorted(folder.iterdir()):
                    tar.add(path, path.name)
            self.put_object(uri, Path(archive.name))

    def put_object(self, uri: str, content: bytes | Path, content_type: str | None = None) -> None:
        """Make or replace an object.

        Raises:
            Failed: there is no such bucket.
        """
        try:
            self.objects.put(*split_uri(uri), content, content_type)
        except KeyError as error:
            raise Failed(_missing(self.objects, uri)) from error


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def join_uri(base: str, *parts: str) -> str:
    """``s3://bucket/a`` and parts, with one slash between."""
    return "/".join([base.rstrip("/"), *parts])


def _missing(objects: Objects, uri: str) -> str:
    """AWS's reason for a download that found nothing."""
    bucket, key = split_uri(uri)
    if not objects.has_bucket(bucket):
        return f"ClientError: Data download failed:NoSuchBucket (404): The specified bucket does not exist: {bucket}"
    return f"ClientError: Data download failed:NoSuchKey (404): No objects found under the S3 URI s3://{bucket}/{key}"
