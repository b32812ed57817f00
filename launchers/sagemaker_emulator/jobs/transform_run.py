"""Runs one transform job: splits objects into records, sends them to the container, and joins the results."""

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

from sagemaker_emulator.errors import JobFailed
from sagemaker_emulator.hosting.model_container import ModelContainer, NoReply, Reply, TimedOut
from sagemaker_emulator.storage.records import Record
from sagemaker_emulator.storage.transfers import Transfers, join_uri, split_uri

_CONCURRENT, _PAYLOAD, _STRATEGY = "MaxConcurrentTransforms", "MaxPayloadInMB", "BatchStrategy"
_DEFAULTS = {_CONCURRENT: 1, _PAYLOAD: 6, _STRATEGY: "MultiRecord"}  # AWS's own
_LOGGED = {"MultiRecord": "MULTI_RECORD", "SingleRecord": "SINGLE_RECORD"}
_SECONDS, _RETRIES = 600, 3  # timeout and retries of an invocation: AWS's defaults
_PAUSE = 0.2  # seconds before a retry
_POLL = 0.05  # seconds between two checks of a stop


class TransformRun:
    """Sends a job's requests to a ready container."""

    def __init__(
        self,
        transfers: Transfers,
        record: Record,
        server: ModelContainer,
        stop: threading.Event,
        note: Callable[[str], None],
    ) -> None:
        """Read the settings, from the request or the container.

        Args:
            transfers: reads and writes the objects.
            record: of the job.
            server: the container.
            stop: set when the job is to end.
            note: writes a line to the job's data log.
        """
        self._transfers, self._server, self._stop, self._note = transfers, server, stop, note
        self._input, self._output = record["TransformInput"], record["TransformOutput"]
        client = record.get("ModelClientConfig", {})
        self._seconds = client.get("InvocationsTimeoutInSeconds", _SECONDS)
        self._retries = client.get("InvocationsMaxRetries", _RETRIES)
        chosen: Record = _DEFAULTS | self._parameters() | {k: record[k] for k in _DEFAULTS if record.get(k) is not None}
        self._at_once = int(chosen[_CONCURRENT]) or 1
        self._most = int(chosen[_PAYLOAD]) * 2**20  # 0: no limit
        self._single = chosen[_STRATEGY] in ("SingleRecord", "SINGLE_RECORD")
        strategy = _LOGGED.get(chosen[_STRATEGY], chosen[_STRATEGY])
        note(f"MaxConcurrentTransforms={self._at_once}, MaxPayloadInMB={chosen[_PAYLOAD]}, BatchStrategy={strategy}")

    def transform(self, objects: list[tuple[str, str]]) -> None:
        """Transform objects, given as (URI, name beneath the output path). Errors do not stop the others.

        Raises:
            JobFailed: some failed; the log lists them.
        """
        with ThreadPoolExecutor(self._at_once) as threads, ThreadPoolExecutor(self._at_once) as requests:
            futures = [threads.submit(self._object, requests, *one) for one in objects]
            while wait(futures, _POLL).not_done:
                if self._stop.is_set():
                    self._server.stop()  # do not wait for its responses
                    break
        whose = [bad for one in futures if (bad := one.result())]
        if whose:
            raise JobFailed(f"{whose[0]}: See job logs for more information")

    def _object(self, requests: ThreadPoolExecutor, uri: str, name: str) -> str | None:
        """Transform one object; returns who is at fault if it fails."""
        if self._stop.is_set():
            return None
        where = uri.removeprefix("s3://")
        content = self._transfers.read(uri)
        if self._input.get("CompressionType") == "Gzip":
            try:
                content = gzip.decompress(content)
            except (OSError, EOFError) as error:
                self._note(f"{where}: {error}")
                return "ClientError"
        records = list(self._records(content))
        if self._most and any(len(record) > self._most for record in records):
            self._note(f"{where}: Too much data for max payload size")
            return "ClientError"
        answers = list(requests.map(self._send, records))
        if self._stop.is_set():
            return None
        bad = next((answer for answer in answers if not isinstance(answer, bytes)), None)
        if bad is not None:
            whose, first = _fault(bad)
            reply_lines = bad.body.decode(errors="replace").splitlines() if isinstance(bad, Reply) else []
            for line in (first, "", "Message:", *reply_lines):
                self._note(f"{where}: {line}")
            return whose
        end = b"\n" if self._output.get("AssembleWith") == "Line" else b""
        whole = b"".join(answer + end for answer in answers if isinstance(answer, bytes))
        target = join_uri(self._output["S3OutputPath"], f"{name}.out")
        self._transfers.put(target, whole, self._output.get("Accept"))
        return None

    def _records(self, content: bytes) -> Iterator[bytes]:
        """The bodies of an object's requests."""
        if self._input.get("SplitType", "None") != "Line":
            yield content
            return
        lines = content.splitlines(keepends=True)
        if self._single:
            yield from (line.rstrip(b"\r\n") for line in lines)
            return
        batch: list[bytes] = []
        size = 0
        for line in lines:
            if batch and self._most and size + len(line) > self._most:
                yield b"".join(batch)
                batch, size = [], 0
            batch.append(line)
            size += len(line)
        if batch:
            yield b"".join(batch)

    def _send(self, body: bytes) -> bytes | Reply | NoReply:
        """The response to one request, with retries."""
        response: Reply | NoReply = NoReply("the job was stopped")
        headers = {"Content-Type": self._input.get("ContentType", "application/octet-stream")}
        if "Accept" in self._output:
            headers["Accept"] = self._output["Accept"]
        for _ in range(1 + self._retries):
            if self._stop.is_set():
                break
            try:
                response = self._server.invoke(body, headers, self._seconds)
            except NoReply as error:
                response = error
            else:
                if 200 <= response.status < 300:
                    return response.body
                if response.status < 500:
                    break  # a retry would be refused too
            self._stop.wait(_PAUSE)
        return response

    def _parameters(self) -> Record:
        """The container's own parameters, if it has them."""
        try:
            reply = self._server.request("GET", "/execution-parameters", b"", {}, 10)
        except NoReply:
            return {}
        parameters: Record = {}
        if reply.status == 200:
            with suppress(ValueError):
                content = json.loads(reply.body)
                parameters = {k: content[k] for k in _DEFAULTS if k in content} if isinstance(content, dict) else {}
        return parameters


def inputs(transfers: Transfers, source: Record) -> list[tuple[str, str]]:
    """A job's input objects, as (URI, name beneath the output path).

    Raises:
        JobFailed: there are no objects.
    """
    uri = source["S3Uri"]
    if source["S3DataType"] == "ManifestFile":
        return transfers.list_manifest(uri)
    prefix = split_uri(uri)[1]
    objects = []
    for one, _ in transfers.list(uri):
        key = split_uri(one)[1]
        whole = prefix.endswith("/") or key[len(prefix) :].startswith(
            "/"
        )  # the prefix is a folder, else part of a name
        beneath = key[len(prefix) :].lstrip("/") if whole else key[prefix.rfind("/") + 1 :]
        objects.append((one, beneath))
    return objects


def environment(record: Record) -> dict[str, str]:
    """Environment variables about the job."""
    given = _DEFAULTS | {k: record[k] for k in _DEFAULTS if k in record}
    return {
        "SAGEMAKER_BATCH": "true",
        "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": str(given[_CONCURRENT]),
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(given[_PAYLOAD]),
        "SAGEMAKER_BATCH_STRATEGY": _LOGGED[str(given[_STRATEGY])],
    }


def _fault(response: bytes | Reply | NoReply) -> tuple[str, str]:
    """Who is at fault for a failed record, and AWS's line in the log."""
    if isinstance(response, Reply) and 400 <= response.status < 500:
        return "ClientError", f"ClientError: {response.status}"
    if isinstance(response, Reply):
        return "AlgorithmError", f"Bad HTTP status received from algorithm: {response.status}"
    if isinstance(response, TimedOut):
        return "AlgorithmError", "Algorithm did not answer in time"
    return "AlgorithmError", "Unable to get response from algorithm"
