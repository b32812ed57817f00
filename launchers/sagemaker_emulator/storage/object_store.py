"""moto's S3 with the content in files, so that it survives a restart and does not fill the memory.

Content is in ``s3/content``, one file per object; ``s3/journal.jsonl`` maps objects to files. Lost at a restart: older
versions, ACLs, tags, and the settings of buckets.
"""

import hashlib
import itertools
import json
import os
import re
import shutil
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs

from moto.backends import get_backend
from moto.s3.models import FakeKey
from moto.s3.utils import metadata_from_headers

from sagemaker_emulator.identity import ACCOUNT

# A PutObject with one of these headers is left to moto.
_MOTO_S = re.compile(
    r"(?i)x-amz-(copy-source|acl|grant-|tagging|storage-class|server-side|object-lock|website|decoded|write-offset)|if-"
)


_READ = 5.0  # seconds that the file of a replaced object remains for readers


class _File:
    """An object's content as the buffer that moto expects; opened only while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: BinaryIO | None = None

    def seek(self, offset: int) -> None:
        self.close()
        self._open = self.path.open("rb")
        self._open.seek(offset)

    def read(self, size: int = -1) -> bytes:
        if self._open is None:
            self.seek(0)
        assert self._open is not None
        content = self._open.read(size)
        if size < 0 or not content:
            self.close()
        return content

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None


class ObjectStore:
    """S3's objects. ``keep`` updates the files after every request that moto handled.

    Attributes:
        lock: held while moto handles a request: its objects share one open buffer with all threads.
    """

    def __init__(self, folder: Path, region: str) -> None:
        self.region = region
        self._folder = folder / "s3"
        self._content = self._folder / "content"
        self._content.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        self._replaced: deque[tuple[float, Path]] = deque()
        self._backend = get_backend("s3")[ACCOUNT]["aws"]
        entries = self._load()
        self._numbers = itertools.count(1 + max((int(e["file"]) for e in entries), default=0))
        self._files = {(e["bucket"], e["key"]): self._file(e["file"]) for e in entries}
        self._journal = (self._folder / "journal.jsonl").open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the journal, and remove replaced files."""
        self._journal.close()
        for _, path in self._replaced:
            path.unlink(missing_ok=True)

    # For Transfers

    def has_bucket(self, bucket: str) -> bool:
        """Whether the bucket exists."""
        return bucket in self._backend.buckets

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """The keys with a prefix, in S3's order; empty if there is no such bucket."""
        if bucket not in self._backend.buckets:
            return []
        return sorted(
            k for k in list(self._backend.buckets[bucket].keys) if k.startswith(prefix) and self._get(bucket, k)
        )

    def path(self, bucket: str, key: str) -> Path | None:
        """The file of an object, to be read only."""
        stored = self._get(bucket, key)
        buffer: Any = None if stored is None else stored._value_buffer
        return buffer.path if isinstance(buffer, _File) else None

    def content_type(self, bucket: str, key: str) -> str | None:
        """The Content-Type with which an object was stored."""
        stored = self._get(bucket, key)
        metadata = {} if stored is None else {k.lower(): v for k, v in stored.metadata.items()}
        return metadata.get("content-type")

    def put(self, bucket: str, key: str, content: bytes | Path, content_type: str | None = None) -> None:
        """Create or replace an object; KeyError if there is no such bucket."""
        if bucket not in self._backend.buckets:
            raise KeyError(bucket)
        path = self._new_file()
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_bytes(content)
        with path.open("rb") as file:
            etag = hashlib.file_digest(file, "md5").hexdigest()
        self._add(bucket, key, path, {"etag": etag, "metadata": {"Content-Type": content_type} if content_type else {}})

    # For the server

    def put_request(self, path: str, query: str, headers: Mapping[str, str], body: bytes) -> dict[str, str] | None:
        """Handle a plain PutObject without moto; returns the response's headers, or None if moto must handle it."""
        bucket, _, key = path[1:].partition("/")
        known_bucket = self._backend.buckets.get(bucket)
        if (
            query
            or not key
            or known_bucket is None
            or known_bucket.is_versioned
            or any(_MOTO_S.match(name) for name in headers)
        ):
            return None
        if known_bucket.encryption or "aws-chunked" in headers.get("Content-Encoding", ""):
            return None
        sums = {k.lower(): v for k, v in headers.items() if k.lower().startswith("x-amz-checksum-")}
        file, etag = self._new_file(), hashlib.md5(body, usedforsecurity=False).hexdigest()
        file.write_bytes(body)
        entry: dict[str, Any] = {"etag": etag, "metadata": dict(metadata_from_headers(dict(headers)))}
        for name, value in sums.items():
            entry |= {"algorithm": name.removeprefix("x-amz-checksum-").upper(), "checksum": value}
        self._add(bucket, key, file, entry)
        return {"ETag": f'"{etag}"', **sums}

    def keep(self, method: str, path: str, query: str, body: bytes) -> None:
        """Update the files after a request that moto handled successfully."""
        if method in ("GET", "HEAD", "OPTIONS"):
            return
        bucket, _, key = path[1:].partition("/")
        parameters = parse_qs(query, keep_blank_values=True)
        if not key and method == "POST" and "delete" in parameters:
            for element in ElementTree.fromstring(body).iter():
                if element.tag.rpartition("}")[2] == "Key":
                    self._sync(bucket, element.text or "")
        elif not key and not parameters:
            known = bucket in self._backend.buckets
            self._write({"bucket": bucket, "region": self._backend.buckets[bucket].region_name if known else None})
        elif key and "partNumber" not in parameters and "uploads" not in parameters:
            self._sync(bucket, key)

    def _sync(self, bucket: str, key: str) -> None:
        """Move an object from moto's memory to a file, or remove it if moto has removed it."""
        with self.lock:
            stored = self._get(bucket, key)
            if stored is None:
                self._write({"bucket": bucket, "key": key, "file": None})
            elif not isinstance(stored._value_buffer, _File):
                path = self._new_file()
                path.write_bytes(stored.value)
                stored.etag  # noqa: B018 - moto reckons it from the buffer, once
                buffer, stored._value_buffer = stored._value_buffer, _File(path)
                buffer.close()
                entry = {"etag": stored._etag, "metadata": dict(stored.metadata)}
                if stored.checksum_algorithm:
                    entry |= {"algorithm": stored.checksum_algorithm, "checksum": stored.checksum_value}
                    entry |= {"checksum_type": stored.checksum_type, "checksum_parts": stored.checksum_parts}
                self._write(self._line(bucket, key, path, entry, stored.last_modified))

    # The journal

    def _get(self, bucket: str, key: str) -> Any:  # noqa: ANN401 - its buffer is ours
        """The newest version, unless it is a deletion."""
        if bucket not in self._backend.buckets:
            return None
        stored = self._backend.buckets[bucket].keys.get(key)
        stored = stored[-1] if isinstance(stored, list) and stored else stored
        return stored if isinstance(stored, FakeKey) else None

    def _new_file(self) -> Path:
        path = self._file(str(next(self._numbers)))
        path.parent.mkdir(exist_ok=True)
        return path

    def _file(self, number: str) -> Path:
        return self._content / f"{int(number) % 256:02x}" / number

    def _add(self, bucket: str, key: str, path: Path, entry: dict[str, Any]) -> None:
        line = self._line(bucket, key, path, entry, datetime.now(UTC))
        with self.lock:  # with two writers of one object, the same must win in moto and in the journal
            self._write(line)
            self._place(line)

    def _line(self, bucket: str, key: str, path: Path, entry: dict[str, Any], modified: datetime) -> dict[str, Any]:
        return {"bucket": bucket, "key": key, "file": path.name, "size": path.stat().st_size} | {
            "modified": modified.timestamp(),
            **entry,
        }

    def _place(self, line: dict[str, Any]) -> None:
        """Create moto's object from a line."""
        bucket = self._backend.buckets[line["bucket"]]
        restored: Any = FakeKey(
            line["key"],
            b"",
            account_id=ACCOUNT,
            region_name=self.region,
            etag=line["etag"],
            is_versioned=bucket.is_versioned,
            version_id=os.urandom(16).hex() if bucket.is_versioned else "null",
            bucket_name=line["bucket"],
            checksum_value=line.get("checksum"),
            checksum_type=line.get("checksum_type"),
            checksum_parts=line.get("checksum_parts"),
        )
        restored._value_buffer.close()
        restored._value_buffer = _File(self._file(line["file"]))
        restored.contentsize = line["size"]
        restored.checksum_algorithm = line.get("algorithm")
        restored.last_modified = datetime.fromtimestamp(line["modified"], UTC).replace(tzinfo=None)
        restored.set_metadata(dict(line["metadata"]))
        older = bucket.keys.getlist(line["key"], []) if bucket.is_versioned else []
        bucket.keys.setlist(line["key"], [*older, restored])

    def _write(self, line: dict[str, Any]) -> None:
        """Add a line to the journal; remove the object's old file, unless the bucket keeps versions."""
        with self.lock:
            self._journal.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._journal.flush()
            if "key" not in line:
                return
            name = (line["bucket"], line["key"])
            old = self._files.pop(name, None)
            if line["file"] is not None:
                self._files[name] = self._file(line["file"])
            bucket, now = self._backend.buckets.get(line["bucket"]), time.monotonic()
            if old is not None and not (bucket and bucket.is_versioned):
                self._replaced.append((now, old))
            while self._replaced and now - self._replaced[0][0] > _READ:
                self._replaced.popleft()[1].unlink(missing_ok=True)

    def _load(self) -> list[dict[str, Any]]:
        """Load the journal into moto, compact it, and remove files without an object."""
        journal = self._folder / "journal.jsonl"
        buckets: dict[str, dict[str, dict[str, Any]]] = {}
        regions: dict[str, str] = {}
        for text in journal.read_text(encoding="utf-8", errors="replace").split("\n") if journal.exists() else []:
            with suppress(ValueError):  # an incomplete line of a killed emulator
                line = json.loads(text)
                if "key" not in line:
                    if line["region"] is None:
                        buckets.pop(line["bucket"], None)
                    else:
                        regions[line["bucket"]] = line["region"]
                        buckets.setdefault(line["bucket"], {})
                elif line["file"] is None:
                    buckets.get(line["bucket"], {}).pop(line["key"], None)
                else:
                    buckets.setdefault(line["bucket"], {})[line["key"]] = line
        for name in buckets:
            self._backend.create_bucket(name, regions.get(name, self.region))
        lines = [line for objects in buckets.values() for line in objects.values()]
        wanted = {line["file"] for line in lines}
        for path in self._content.glob("*/*"):
            if path.name not in wanted:
                path.unlink()
        for line in lines:
            self._place(line)
        made = [{"bucket": name, "region": regions.get(name, self.region)} for name in buckets]
        temporary = journal.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in [*made, *lines])
        temporary.replace(journal)
        return lines
