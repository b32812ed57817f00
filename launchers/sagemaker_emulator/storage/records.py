"""Records of resources: one JSON file each, so that they survive a restart."""

import json
import threading
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

from sagemaker_emulator.storage.atomic_files import write_json

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
            kind = self._records.setdefault(file.parent.name, {})
            kind[unquote(file.stem)] = json.loads(file.read_text(encoding="utf-8"))

    def all(self, kind: str) -> list[Record]:
        """All records of a kind, the oldest first."""
        with self.lock:
            return list(self._records.get(kind, {}).values())

    def find(self, kind: str, name: str) -> Record | None:
        """The record, or None. It is the stored object itself: change it under ``lock``, then ``save`` it."""
        with self.lock:
            return self._records.get(kind, {}).get(name)

    def save(self, kind: str, name: str, record: Record) -> None:
        """Store a new or a changed record."""
        with self.lock:
            self._records.setdefault(kind, {})[name] = record
            write_json(self._file(kind, name), record)

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
        return self._folder / kind / f"{quote(name, safe='')}.json"
