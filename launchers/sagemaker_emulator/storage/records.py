"""Records of resources: one JSON file each, so that they survive a restart."""

import hashlib
import json
import threading
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

from sagemaker_emulator.storage.atomic_files import write_json

_MOST = 200  # characters of a file's name; temporary ones are longer, and 255 are allowed
_LONG = "="  # first character of the file of a longer name, which quoting never yields
Record: TypeAlias = dict[str, Any]


class Records:
    """All records of an account, by kind and name.

    Operations of the API run under ``lock``, one at a time. Threads take it to change several records at once.
    """

    def __init__(self, folder: Path) -> None:
        self.lock = threading.RLock()
        self._folder = folder
        self._records: dict[str, dict[str, Record]] = {}
        for half in folder.glob("*/.*.tmp"):
            half.unlink()  # of an emulator that was killed while it wrote
        for file in sorted(folder.glob("*/*.json")):
            content = json.loads(file.read_text(encoding="utf-8"))
            is_long = file.stem.startswith(_LONG)
            name, record = (content["Name"], content["Record"]) if is_long else (unquote(file.stem), content)
            self._records.setdefault(file.parent.name, {})[name] = record
        for kind, records in self._records.items():
            self._records[kind] = dict(sorted(records.items(), key=lambda item: _created(item[1])))

    def all(self, kind: str) -> list[Record]:
        """All records of a kind, the oldest first."""
        with self.lock:
            return list(self._records.get(kind, {}).values())

    def names(self, kind: str) -> list[str]:
        """The names of all records of a kind, the oldest first."""
        with self.lock:
            return list(self._records.get(kind, {}))

    def find(self, kind: str, name: str) -> Record | None:
        """The record, or None. It is the stored object itself: change it under ``lock``, then ``save`` it."""
        with self.lock:
            return self._records.get(kind, {}).get(name)

    def save(self, kind: str, name: str, record: Record) -> None:
        """Store a new or a changed record."""
        with self.lock:
            file = self._file(kind, name)
            write_json(file, {"Name": name, "Record": record} if file.stem.startswith(_LONG) else record)
            self._records.setdefault(kind, {})[name] = record

    def change(self, kind: str, name: str, **members: Any) -> Record:  # noqa: ANN401 - whatever AWS returns
        """Change members of a record (None removes one) and store it."""
        with self.lock:
            record = self._records[kind][name]
            record.update(members)
            for key in [k for k, v in members.items() if v is None]:
                record.pop(key, None)
            self.save(kind, name, record)
            return record

    def remove(self, kind: str, name: str) -> None:
        """Delete a record."""
        with self.lock:
            self._records.get(kind, {}).pop(name, None)
            self._file(kind, name).unlink(missing_ok=True)

    def _file(self, kind: str, name: str) -> Path:
        quoted = quote(name, safe="", errors="backslashreplace")
        if len(quoted) > _MOST:
            quoted = _LONG + hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()
        return self._folder / kind / f"{quoted}.json"


def _created(record: Record) -> float:
    moment = record.get("CreationTime")
    return moment if isinstance(moment, int | float) else 0.0  # the key of a tag may have this name
