"""Uploads a folder of photos to S3 before a remote job: only what is missing, in parallel, with resume.

S3 itself shows what is there, and nothing is stored on this machine. So an interrupted upload resumes, and uploads from
other machines count too.
"""

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from sagehound.data.folders import scan
from sagehound.errors import ConfigError, InputError, SagehoundError
from sagehound.storage.packs import groups, make_pack, read_photo, unreadable
from sagehound.system import console
from sagehound_launchers.sagemaker.aws_errors import aws_errors

_KEY_BYTES = 1024  # bytes of an object's key: S3's limit
_DELETED_AT_ONCE = 1000  # objects in one request: S3's limit
_IN_HAND = 128 * 2**20  # bytes of photos in memory; a larger pack is sent alone

S3: TypeAlias = Any  # botocore ships no types
Task: TypeAlias = tuple[int, Callable[[], int]]  # bytes of photos, and the upload, which returns bytes sent


@dataclass(frozen=True)
class Uploaded:
    """The place of a set of photos in S3, and what was uploaded."""

    uri: str  # S3Uri of a channel
    manifest: bool  # whether S3DataType is ManifestFile; S3Prefix otherwise
    photos: int
    objects: int  # objects of the set
    sent: int  # objects that were uploaded
    bytes_sent: int
    deleted: int = 0  # objects of photos that are no longer in the folder

    def __str__(self) -> str:
        done = f"{self.sent:,} of {self.objects:,} objects sent ({self.bytes_sent / 1e6:,.1f} MB)"
        gone = f", {self.deleted:,} deleted" if self.deleted else ""
        return f"{self.photos:,} photos at {self.uri}: {done}{gone}"


def upload_packed(root: Path, s3: S3, bucket: str, prefix: str, workers: int = 16) -> Uploaded:
    """Upload photos as packs of some megabytes, for a channel in File mode; see ``sagehound.storage.packs.unpack``.

    A pack is stored at ``PREFIX/packs/SHA256.tar`` once for all users; a ManifestFile lists the packs of this folder.
    Packs of earlier states remain, for the jobs that use them.

    Args:
        root: split/class/photo or class/photo.
        s3: a boto3 client with retries and as many connections as workers.
        bucket: name of the bucket.
        prefix: of all keys.
        workers: uploads at a time; at most the client's connections.

    Raises:
        ConfigError: no prefix.
        InputError: ``scan`` refuses the folder, or a photo cannot be read.
        SagehoundError: S3 is unreachable or refuses; the next call resumes.
    """
    base = _base(prefix)
    photos = _with_sizes(root)
    sizes = dict(photos)
    with aws_errors(f"sending photos to s3://{bucket}/{base}"):
        there = dict(_list(s3, bucket, f"{base}packs/"))
        names: list[str] = []

        def send(group: list[str]) -> int:
            pack = make_pack(root, group)
            names.append(pack.name)
            key = f"{base}packs/{pack.name}"
            return 0 if there.get(key, ("", -1))[1] == len(pack.content) else _put(s3, bucket, key, pack.content)

        tasks: list[Task] = [(sum(sizes[f] for f in group), partial(send, group)) for group in groups(photos)]
        sent = _in_parallel(tasks, _workers(s3, workers), _title(len(photos), bucket, base))
        manifest = json.dumps([{"prefix": f"s3://{bucket}/{base}packs/"}, *sorted(names)]).encode()
        key = f"{base}manifests/{hashlib.sha256(manifest).hexdigest()}.manifest"
        # last, so that all packs of a manifest exist
        sent.append(0 if dict(_list(s3, bucket, key)) else _put(s3, bucket, key, manifest))
    return Uploaded(f"s3://{bucket}/{key}", True, len(photos), len(sent), sum(map(bool, sent)), sum(sent))


def upload_loose(
    root: Path, s3: S3, bucket: str, prefix: str, workers: int = 16, names: Iterable[str] | None = None
) -> Uploaded:
    """Upload photos one by one to ``PREFIX/photos/``, for a channel in FastFile mode, and delete other objects there.

    A photo is skipped if size and MD5 are the same. A bucket with KMS encryption shows no MD5, so every photo is
    uploaded each time.

    Args:
        root: split/class/photo or class/photo.
        s3: a boto3 client with retries and as many connections as workers.
        bucket: name of the bucket.
        prefix: of all keys; use one per folder of photos, because other photos are deleted from it.
        workers: uploads at a time; at most the client's connections.
        names: photos below the root; None: those of split/class/photo or class/photo.

    Raises:
        ConfigError: no prefix.
        InputError: ``scan`` refuses the folder, a photo cannot be read, or its name cannot be a key.
        SagehoundError: S3 is unreachable or refuses; the next call resumes.
    """
    base = f"{_base(prefix)}photos/"
    photos = _with_sizes(root, names)
    keys = {file: _key(root, base, file) for file, _ in photos}
    with aws_errors(f"sending photos to s3://{bucket}/{base}"):
        there = dict(_list(s3, bucket, base))

        def send(file: str) -> int:
            content = read_photo(root / file)
            tag = hashlib.md5(content, usedforsecurity=False).hexdigest()
            if there.get(keys[file]) == (tag, len(content)):
                return 0
            _put(s3, bucket, keys[file], content)
            return max(len(content), 1)  # empty files are uploaded too

        tasks: list[Task] = [(size, partial(send, file)) for file, size in photos]
        sent = _in_parallel(tasks, _workers(s3, workers), _title(len(photos), bucket, base))
        old = sorted(there.keys() - set(keys.values()))
        _delete(s3, bucket, old)
    return Uploaded(f"s3://{bucket}/{base}", False, len(photos), len(photos), sum(map(bool, sent)), sum(sent), len(old))


def _base(prefix: str) -> str:
    if not prefix.strip("/"):
        raise ConfigError("photos need a prefix of their own in the bucket: give one, such as sagehound/dogs")
    return f"{prefix.strip('/')}/"


def _with_sizes(root: Path, names: Iterable[str] | None = None) -> list[tuple[str, int]]:
    """Every photo's path below the root, and its size in bytes."""
    sizes = []
    for file in [photo.file for photo in scan(root).photos] if names is None else names:
        try:
            sizes.append((file, (root / file).stat().st_size))
        except OSError as error:  # a broken link
            raise unreadable(root / file, error) from error
    return sizes


def _key(root: Path, base: str, file: str) -> str:
    key = base + file
    try:
        long = len(key.encode()) > _KEY_BYTES
    except UnicodeEncodeError as error:
        raise InputError(f"{root / file}: its name is no UTF-8, which S3 asks for; rename it") from error
    if long:
        raise InputError(f"{root / file}: with its prefix its name has more than S3's {_KEY_BYTES} bytes; shorten it")
    return key


def _title(photos: int, bucket: str, base: str) -> str:
    return f"Sending {photos:,} photos to s3://{bucket}/{base}"


def _workers(s3: S3, wanted: int) -> int:
    connections: int = s3.meta.config.max_pool_connections
    return max(1, min(wanted, connections))


def _list(s3: S3, bucket: str, prefix: str) -> Iterator[tuple[str, tuple[str, int]]]:
    """Keys with ETag and size."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            yield item["Key"], (item["ETag"].strip('"'), item["Size"])


def _put(s3: S3, bucket: str, key: str, content: bytes) -> int:
    s3.put_object(Bucket=bucket, Key=key, Body=content)
    return len(content)


def _delete(s3: S3, bucket: str, keys: list[str]) -> None:
    for start in range(0, len(keys), _DELETED_AT_ONCE):
        some = [{"Key": key} for key in keys[start : start + _DELETED_AT_ONCE]]
        failed = s3.delete_objects(Bucket=bucket, Delete={"Objects": some, "Quiet": True}).get("Errors", [])
        if failed:
            key, reason = failed[0].get("Key"), failed[0].get("Message")
            raise SagehoundError(
                f"s3://{bucket}/{key}, a photo that is no longer in the folder, could not be deleted ({reason}): "
                "the role needs s3:DeleteObject"
            )


def _in_parallel(tasks: list[Task], workers: int, title: str) -> list[int]:
    """Run tasks in threads with a progress bar; returns their results in any order.

    Daemon threads: after Ctrl-C or an error, a request that hangs would otherwise delay the command for minutes.
    """
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    done: queue.SimpleQueue[tuple[int, int] | BaseException] = queue.SimpleQueue()
    stopped = threading.Event()
    memory = _Memory(_IN_HAND)

    def work() -> None:
        while not stopped.is_set():
            try:
                size, run = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                with memory.holding(size):
                    done.put((size, 0 if stopped.is_set() else run()))
            except BaseException as error:
                stopped.set()
                done.put(error)

    for _ in range(min(workers, len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    if not console.terminal().is_terminal:
        console.info(title)
    returned: list[int] = []
    try:
        with console.bar(bytes_=True) as progress:
            bar = progress.add_task(title, total=sum(size for size, _ in tasks))
            while len(returned) < len(tasks):
                result = done.get()
                if isinstance(result, BaseException):
                    raise result
                returned.append(result[1])
                progress.advance(bar, result[0])
    finally:
        stopped.set()
    return returned


class _Memory:
    """A budget of bytes that threads share. A request for more than the budget waits until it is alone."""

    def __init__(self, bytes_: int) -> None:
        self._all = self._free = bytes_
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        held = min(size, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= held)
            self._free -= held
        try:
            yield
        finally:
            with self._changed:
                self._free += held
                self._changed.notify_all()
