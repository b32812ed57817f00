"""Writes a share of the requests and their responses as JSON lines, in the form of SageMaker's data capture."""

import base64
import json
import queue
import random
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sagehound.errors import ConfigError, SagehoundError
from sagehound.storage.atomic import write_text
from sagehound.system import console

_SECONDS = 1.0  # how long records are collected for one file
_RECORDS = 64  # of one file
_MOST_BYTES = 128 * 2**20  # that may wait for the disk; further requests are not captured


@dataclass(frozen=True)
class CapturedCall:
    """A request with its response."""

    model: str
    request_type: str
    request: bytes
    response_type: str
    response: bytes
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def bytes(self) -> int:
        """Bytes of both bodies."""
        return len(self.request) + len(self.response)

    def line(self) -> str:
        """One line of JSON; both bodies are in base64."""
        record = {
            "captureData": {
                "endpointInput": _side("INPUT", self.request_type, self.request),
                "endpointOutput": _side("OUTPUT", self.response_type, self.response),
            },
            "eventMetadata": {"eventId": str(uuid.uuid4()), "inferenceTime": f"{self.time:%Y-%m-%dT%H:%M:%SZ}"},
            "eventVersion": "0",
        }
        return json.dumps(record) + "\n"


def _side(mode: str, media: str, body: bytes) -> dict[str, Any]:
    data = base64.b64encode(body).decode()
    return {"observedContentType": media, "mode": mode, "data": data, "encoding": "BASE64"}


class RequestCapture:
    """Captures calls in a thread, so that responses do not wait for the disk.

    The files are FOLDER/MODEL/AllTraffic/yyyy/mm/dd/hh/mm-ss-mmm-ID.jsonl, in UTC. If the disk is too slow or full, a
    warning is printed and calls are not captured; requests are not affected.

    Args:
        folder: made if it is missing.
        percent: of the calls that are captured.

    Raises:
        ConfigError: the folder cannot be made.
    """

    def __init__(self, folder: Path, percent: float = 100.0) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"deploy.capture={folder} cannot be made: {error.strerror}; give a folder") from error
        self.folder, self.percent = folder, percent
        self._waiting: queue.SimpleQueue[CapturedCall | None] = queue.SimpleQueue()
        self._lock, self._bytes, self._lost = threading.Lock(), 0, 0
        self._worker: threading.Thread | None = None  # begun by the first call, in the process that captures

    def add(self, call: CapturedCall) -> None:
        """Capture a call, if it is sampled; returns at once."""
        if random.random() * 100 >= self.percent:
            return
        with self._lock:
            if self._bytes + call.bytes > _MOST_BYTES:
                self._lose(1, "the disk is too slow")
                return
            self._bytes += call.bytes
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="capture", daemon=True)
                self._worker.start()
        self._waiting.put(call)

    def close(self) -> None:
        """Write what is waiting, and end the thread."""
        if self._worker is not None:
            self._waiting.put(None)
            self._worker.join()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            calls, more = [first], True
            until = time.monotonic() + _SECONDS
            while more and len(calls) < _RECORDS and (left := until - time.monotonic()) > 0:
                try:
                    following = self._waiting.get(timeout=left)
                except queue.Empty:
                    break
                more = following is not None
                calls += [following] if following is not None else []
            self._write(calls)
            if not more:
                return

    def _write(self, calls: list[CapturedCall]) -> None:
        by_model = defaultdict(list)
        for call in calls:
            by_model[call.model].append(call)
        for model, some in by_model.items():
            at = some[0].time
            name = f"{at:%Y/%m/%d/%H}/{at:%M-%S}-{at.microsecond // 1000:03d}-{uuid.uuid4()}.jsonl"
            try:
                write_text(self.folder / model / "AllTraffic" / name, "".join(call.line() for call in some))
            except SagehoundError as error:
                with self._lock:
                    self._lose(len(some), str(error))
        with self._lock:
            self._bytes -= sum(call.bytes for call in calls)

    def _lose(self, calls: int, reason: str) -> None:
        """Count calls that are not captured; warn the first time."""
        if not self._lost:
            console.warn(f"requests are not captured in {self.folder}: {reason}")
        self._lost += calls
