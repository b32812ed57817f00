"""InvokeEndpointAsync: a queue on disk. Calls reach the container in the background; their results go to S3.

Defaults are those of AWS's API reference: a call waits at most 6 hours and runs at most 15 minutes.
"""

import base64
import json
import threading
import time
import uuid
from collections import deque
from typing import ClassVar

from sagemaker_emulator.errors import ApiError, JobFailed
from sagemaker_emulator.hosting.deployment import Deployment
from sagemaker_emulator.hosting.endpoints import Endpoints
from sagemaker_emulator.hosting.invocation_metrics import InvocationMetrics
from sagemaker_emulator.hosting.model_container import NoReply, Reply, TimedOut
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.transfers import Transfers, join_uri
from sagemaker_emulator.web import Request, Response

_KIND = "async-invocation"
_HEADER = "X-Amzn-SageMaker-"
_WAIT = 21_600.0  # seconds that a call waits
_TIMEOUT = 900.0  # seconds that a container has for it
_AT_ONCE = 4  # calls of an instance; AWS chooses a number where none is given
_POLL = 0.1


class AsyncInference:
    """Asynchronous calls. An accepted call survives the end of the emulator."""

    ROUTES: ClassVar[dict[str, str]] = {r"POST /endpoints/([^/]+)/async-invocations": "InvokeEndpointAsync"}

    def __init__(
        self, endpoints: Endpoints, records: Records, transfers: Transfers, tasks: Tasks, metrics: InvocationMetrics
    ) -> None:
        self._endpoints, self._records, self._transfers, self._tasks = endpoints, records, transfers, tasks
        self._metrics = metrics
        self._running: dict[str, int] = {}  # calls in a container, by endpoint
        self._waiting: dict[str, deque[Record]] = {}  # accepted calls, by endpoint; each has a thread that starts them
        self._changed = threading.Condition()  # guards the attributes above; notified when a call has ended

    def InvokeEndpointAsync(self, call: Request, name: str) -> Response:
        """Accept a call: 202 with the places of its result and of its failure.

        Raises:
            ApiError: there is no such endpoint, it is not asynchronous, or the call names no input.
        """
        with self._endpoints.serving(name) as deployment:
            config = deployment.config.get("AsyncInferenceConfig")
        if config is None:
            raise ApiError("ValidationError", f"Endpoint {name} is not asynchronous: send it an InvokeEndpoint.")

        def header(member: str) -> str | None:
            return call.headers.get(_HEADER + member)

        location = header("InputLocation") or ""
        if not (location.startswith("s3://") or call.body):
            raise ApiError("ValidationError", "InputLocation must be an address in S3: s3://BUCKET/KEY.")
        number, paths = str(uuid.uuid4()), config["OutputConfig"]
        folder = join_uri(paths["S3OutputPath"], *filter(None, [header("S3OutputPathExtension")]))
        output = join_uri(folder, header("Filename") or f"{number}.out")
        failure = join_uri(paths["S3FailurePath"], f"{number}-error.out") if paths.get("S3FailurePath") else None
        record = {
            "Id": number,
            "EndpointName": name,
            "InferenceId": header("Inference-Id") or str(uuid.uuid4()),
            "InputLocation": location,
            "Body": base64.b64encode(call.body).decode(),
            "Headers": {
                "Content-Type": header("Content-Type") or "",
                "Accept": header("Accept") or "*/*",
                f"{_HEADER}Custom-Attributes": header("Custom-Attributes") or "",
            },
            "OutputLocation": output,
            "FailureLocation": failure,
            "Expires": time.time() + _seconds("RequestTTLSeconds", header("RequestTTLSeconds"), 60, _WAIT, _WAIT),
            "Timeout": _seconds("InvocationTimeoutSeconds", header("InvocationTimeoutSeconds"), 1, 3_600, _TIMEOUT),
        }
        self._records.save(_KIND, number, record)
        self._enqueue(record)
        headers = {"Content-Type": "application/json", f"{_HEADER}OutputLocation": output}
        if failure:
            headers[f"{_HEADER}FailureLocation"] = failure
        return Response(json.dumps({"InferenceId": record["InferenceId"]}).encode(), 202, headers)

    def recover(self) -> None:
        """Run the calls that were accepted before the emulator ended."""
        for record in self._records.all(_KIND):
            self._enqueue(record)

    def _enqueue(self, record: Record) -> None:
        name = record["EndpointName"]
        with self._changed:
            is_first = name not in self._waiting
            self._waiting.setdefault(name, deque()).append(record)
        if is_first:
            self._tasks.background(self._start_all, name)

    # In threads

    def _start_all(self, name: str) -> None:
        """Start the waiting calls of an endpoint in their order, as soon as it has room, until none is left."""
        try:
            while not self._tasks.stopping.is_set():
                with self._changed:
                    calls = list(self._waiting[name])
                for record in calls:
                    if reason := self._unusable(record):
                        self._take(record)
                        self._fail(record, reason)
                while self._start_next(name):
                    pass
                with self._changed:
                    if not self._waiting[name]:
                        del self._waiting[name]
                        return
                    self._changed.wait(_POLL)
        except Exception:  # the next call starts another thread; a restart runs what waits
            with self._changed:
                self._waiting.pop(name, None)
            raise

    def _unusable(self, record: Record) -> str:
        """The reason why a waiting call can never run, or nothing."""
        name = record["EndpointName"]
        if time.time() > record["Expires"]:
            return "The request expired before it was processed (RequestTTLSeconds)."
        if not self._endpoints.exists(name):
            return f"Endpoint {name} was deleted."
        return ""

    def _start_next(self, name: str) -> bool:
        """Start the call that has waited longest, if the endpoint has room for it."""
        with self._changed:
            record = self._waiting[name][0] if self._waiting[name] else None
        if record is None:
            return False
        try:
            with self._endpoints.serving(name) as deployment:
                if "AsyncInferenceConfig" not in deployment.config:
                    self._take(record)
                    self._fail(record, f"Endpoint {name} was updated and is no longer asynchronous.")
                    return True
                if not self._begin(name, deployment):
                    return False
        except ApiError:  # it is not in service yet after a restart, or was just deleted
            return False
        self._take(record)
        self._tasks.background(self._work, record)
        return True

    def _take(self, record: Record) -> None:
        with self._changed:
            self._waiting[record["EndpointName"]].remove(record)

    def _work(self, record: Record) -> None:
        """Run a call, and write its result."""
        try:
            self._run(record)
        except ApiError:  # its endpoint is not in service any more
            self._enqueue(record)
        except Exception as error:
            self._fail(record, f"InternalServerError: {error!r}")  # or a restart would run into the same
            raise
        finally:
            self._end(record["EndpointName"])

    def _run(self, record: Record) -> None:
        name, body = record["EndpointName"], base64.b64decode(record["Body"])
        with self._endpoints.serving(name) as deployment:
            path = self._transfers.path(record["InputLocation"]) if record["InputLocation"] else None
            if path is None and not body:
                return self._fail(record, f"There is no object at {record['InputLocation']}.")
            reply = self._reply(record, deployment, path.read_bytes() if path else body)
        if not self._tasks.stopping.is_set():
            self._write(record, reply)
        return None

    def _begin(self, name: str, deployment: Deployment) -> bool:
        """Count a call as running if there is room for it."""
        client = deployment.config["AsyncInferenceConfig"].get("ClientConfig", {})
        at_once = client.get("MaxConcurrentInvocationsPerInstance", _AT_ONCE)
        with self._changed:
            count = self._running.get(name, 0)
            if count >= at_once * deployment.variants[0]["InitialInstanceCount"]:
                return False
            self._running[name] = count + 1
        return True

    def _end(self, name: str) -> None:
        with self._changed:
            self._running[name] -= 1
            self._changed.notify_all()

    def _reply(self, record: Record, deployment: Deployment, body: bytes) -> Reply:
        variant, server = deployment.choose(None)
        headers = {k: v for k, v in record["Headers"].items() if v}
        # SageMaker's SDK 2 names the type in S3 only
        kind = self._transfers.content_type(record["InputLocation"]) if record["InputLocation"] else None
        headers.setdefault("Content-Type", kind or "application/octet-stream")
        sent = time.monotonic()
        try:
            reply = server.invoke(body, headers, record["Timeout"])
        except TimedOut:
            reply = Reply(0, {}, b"the container did not respond within InvocationTimeoutSeconds")
        except NoReply:
            reply = Reply(0, {}, b"the model process exited")
        self._metrics.add(deployment, variant, reply.status, time.monotonic() - sent)
        return reply

    def _write(self, record: Record, reply: Reply) -> None:
        if not 200 <= reply.status < 300:
            whose = "client" if 400 <= reply.status < 500 else "server"
            message = reply.body.decode(errors="replace")
            return self._fail(record, f'Received {whose} error ({reply.status}) from primary with message "{message}".')
        self._put(record, record["OutputLocation"], reply.body, reply.headers.get("Content-Type"))
        return None

    def _fail(self, record: Record, message: str) -> None:
        self._put(record, record["FailureLocation"], message.encode(), "text/plain")

    def _put(self, record: Record, uri: str | None, content: bytes, content_type: str | None) -> None:
        """Write a result, then forget the call: a call whose emulator ends in between writes the same place again."""
        try:
            if uri:
                self._transfers.put(uri, content, content_type)
        except JobFailed as error:
            self._endpoints.log(record["EndpointName"], f"the result of {record['InferenceId']} is lost: {error}")
        self._records.remove(_KIND, record["Id"])


def _seconds(name: str, text: str | None, least: float, most: float, default: float) -> float:
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise ApiError("ValidationError", f"{name} must be a number from {least:g} to {most:g}.")
    return float(text)
