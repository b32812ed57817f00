"""Objects of S3 on their way to jobs and back, without requests over the network."""

import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from sagemaker_emulator.errors import JobFailed
from sagemaker_emulator.storage.object_store import ObjectStore

Listing = list[tuple[str, str]]  # objects as (URI, name beneath the prefix)


class Transfers:
    """Reads, lists, downloads and uploads objects.

    Args:
        store: the objects.
        temporary: a folder for archives that are being written.
    """

    def __init__(self, store: ObjectStore, temporary: Path) -> None:
        self._store, self._temporary = store, temporary
        shutil.rmtree(temporary, ignore_errors=True)  # of an emulator that was killed

    def has_bucket(self, bucket: str) -> bool:
        """Whether the bucket exists."""
        return self._store.has_bucket(bucket)

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """The keys with this prefix, in S3's order; empty if there is no such bucket."""
        return self._store.keys(bucket, prefix)

    def path(self, uri: str) -> Path | None:
        """The file that holds an object, to be read only; None if there is no such object."""
        return self._store.path(*split_uri(uri))

    def content_type(self, uri: str) -> str | None:
        """The Content-Type with which an object was stored."""
        return self._store.content_type(*split_uri(uri))

    def read(self, uri: str) -> bytes:
        """An object's content.

        Raises:
            JobFailed: there is none.
        """
        bucket, key = split_uri(uri)
        path = self._store.path(bucket, key)
        if path is None:
            raise JobFailed(_missing(self._store, uri))
        return path.read_bytes()

    def list(self, uri: str) -> Listing:
        """The objects under a prefix, as (URI, name beneath the prefix); folders' empty markers are left out.

        Raises:
            JobFailed: there are no objects.
        """
        bucket, prefix = split_uri(uri)
        keys = [k for k in self._store.keys(bucket, prefix) if not k.endswith("/")]
        if not keys:
            raise JobFailed(_missing(self._store, uri))
        return [(f"s3://{bucket}/{k}", k[len(prefix) :].lstrip("/") or k.rpartition("/")[2]) for k in keys]

    def list_manifest(self, uri: str) -> Listing:
        """The objects that a ManifestFile names: ``[{"prefix": "s3://bucket/a/"}, "b.jpg", ...]``.

        Raises:
            JobFailed: there is no manifest, or it does not have this form.
        """
        try:
            first, *names = json.loads(self.read(uri))
            return [(first["prefix"] + name, name) for name in names]
        except (ValueError, KeyError, TypeError) as error:
            raise JobFailed(f"ClientError: Data download failed:Unable to parse manifest file {uri}") from error

    def fetch(self, objects: Listing, folder: Path) -> None:
        """Copy listed objects to a folder, under their names.

        Raises:
            JobFailed: one of them is gone, or its name leads out of the folder or cannot be that of a file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for uri, name in objects:
            source, target = self._store.path(*split_uri(uri)), folder / name
            if source is None:
                raise JobFailed(_missing(self._store, uri))
            if not target.resolve().is_relative_to(folder.resolve()):
                raise JobFailed(f"ClientError: Data download failed:{uri} leads out of the channel's folder")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            except OSError as error:  # "a" and "a/b" are both objects, or a name is too long for a file's
                raise JobFailed(f"ClientError: Data download failed:{uri}: {error.strerror}") from error

    def upload_folder(self, folder: Path, uri: str, known: dict[str, tuple[int, int]] | None = None) -> None:
        """Upload a folder's files beneath a prefix.

        Args:
            folder: temporary files (names that end in .tmp) are left out until they are renamed.
            uri: the prefix.
            known: sizes and times of what was uploaded before; those files are left out, and it is brought up to date.

        Raises:
            JobFailed: there is no such bucket, or a file's name is not UTF-8.
        """
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if path.name.endswith(".tmp"):  # smdebug's open index would break create_trial over S3
                continue
            name = path.relative_to(folder).as_posix()
            try:
                stat = path.stat()
                if known is not None and known.get(name) == (stat.st_size, stat.st_mtime_ns):
                    continue
                self.put(f"{uri.rstrip('/')}/{name}", path)
            except FileNotFoundError:
                continue  # the job took it away meanwhile
            if known is not None:
                known[name] = (stat.st_size, stat.st_mtime_ns)

    def upload_tar(self, folder: Path, uri: str) -> None:
        """Upload a folder's content as one tar.gz.

        Raises:
            JobFailed: there is no such bucket.
        """
        self._temporary.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._temporary, suffix=".tar.gz") as archive:
            with tarfile.open(archive.name, "w:gz", compresslevel=1) as tar:
                for path in sorted(folder.iterdir()):
                    tar.add(path, path.name)
            self.put(uri, Path(archive.name))

    def put(self, uri: str, content: bytes | Path, content_type: str | None = None) -> None:
        """Make or replace an object.

        Raises:
            JobFailed: there is no such bucket, or the key is not UTF-8, as that of a file may be.
        """
        bucket, key = split_uri(uri)
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise JobFailed(f"ClientError: Data upload failed:the name {key!r} is not UTF-8") from error
        try:
            self._store.put(bucket, key, content, content_type)
        except KeyError as error:
            raise JobFailed(_missing(self._store, uri)) from error


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def join_uri(base: str, *parts: str) -> str:
    """``s3://bucket/a`` and parts, with one slash between."""
    return "/".join([base.rstrip("/"), *parts])


def _missing(store: ObjectStore, uri: str) -> str:
    """AWS's reason for a download that found nothing."""
    bucket, key = split_uri(uri)
    if not store.has_bucket(bucket):
        return f"ClientError: Data download failed:NoSuchBucket (404): The specified bucket does not exist: {bucket}"
    return f"ClientError: Data download failed:NoSuchKey (404): No objects found under the S3 URI s3://{bucket}/{key}"
