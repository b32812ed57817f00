"""The emulator's server: SageMaker's operations go to our services, everything else to moto.

A service is a class of SERVICES, made with the World. Its public methods that bear the name of an operation of
SageMaker's (CreateTrainingJob) take a request that AWS's model allows and return the answer; members that the model
does not have are cut away, so that a record may be the answer. They run one at a time, under ``world.lock``, and so
must not wait; ``world.background`` does the work. ROUTES maps requests of other services (a regex of ``POST /path``)
to methods that take the Call and the regex's groups and return an Answer; these do not hold the lock. ``recover()``, if
there is one, runs once the server listens; ``close()`` runs first when the emulator ends.
"""

import json
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from moto.core.base_backend import BackendDict
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from sagehound.errors import SagehoundError
from sagehound.files import locked, write_json
from sagehound_launchers.emulator.cloud import MotoCloud
from sagehound_launchers.emulator.protocol import asked, fault_answer, refusal
from sagehound_launchers.emulator.store import Store
from sagehound_launchers.emulator.web import Answer, Call, Handler
from sagehound_launchers.emulator.world import Refused, Settings, World
from sagehound_launchers.sagemaker.shapes import problems, service_model

_HERE = "sagehound_launchers.emulator"
SERVICES = (
    f"{_HERE}.tags:Tags",
    f"{_HERE}.training:TrainingJobs",
    f"{_HERE}.tuning:TuningJobs",
    f"{_HERE}.registry:Registry",
    f"{_HERE}.hosting:Models",
    f"{_HERE}.hosting:EndpointConfigs",
    f"{_HERE}.endpoint:Endpoints",
    f"{_HERE}.invoke:Runtime",
    f"{_HERE}.transform:TransformJobs",
    f"{_HERE}.processing:ProcessingJobs",
)

_one_at_a_time = threading.Lock()  # moto's state belongs to the process


class Emulator:
    """SageMaker and S3 on this machine, at ``url``: ``with Emulator(folder) as emulator: ...``."""

    def __init__(self, folder: Path, port: int = 0, settings: Settings | None = None) -> None:
        """Make it ready; nothing is read or started yet.

        Args:
            folder: where its state lies; it may hold that of an earlier run.
            port: where to listen on 127.0.0.1; 0 takes a free one.
            settings: what else may be chosen.
        """
        self.folder, self._port = folder, port
        self.settings = settings or Settings()
        self.url = ""
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            SagehoundError: another emulator has the folder, or there is one in this process, or the port is taken.
        """
        with ExitStack() as ends:
            if not _one_at_a_time.acquire(blocking=False):
                raise SagehoundError("an emulator runs in this process already; end that one first")
            ends.callback(_one_at_a_time.release)
            busy = (
                f"{self.folder}: another emulator has this folder; {self.folder / 'address.json'} says where it listens"
            )
            ends.enter_context(locked(self.folder / ".lock", busy=busy))
            BackendDict.reset()
            store = Store(self.folder, self.settings.region)
            ends.callback(store.close)
            self.world = World(self.folder, self.settings, store, MotoCloud(self.folder, self.settings.region))
            application = Application(self.world, store)
            try:
                server = make_server("127.0.0.1", self._port, application, threaded=True, request_handler=Handler)
            except (OSError, SystemExit) as error:  # werkzeug exits where a port is taken
                raise SagehoundError(f"port={self._port} cannot be listened on; choose another, or 0") from error
            self.url = self.world.url = f"http://127.0.0.1:{server.server_port}"
            ends.callback(server.server_close)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            with self.world.lock:  # what a client that waited for the port asks for must not be taken for a leftover
                thread.start()
                ends.callback(server.shutdown)
                address = self.folder / "address.json"
                ends.callback(address.unlink, missing_ok=True)
                ends.callback(self.world.close)
                ends.callback(application.close)
                application.recover()
            write_json(address, {"url": self.url, "pid": os.getpid()})
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.world.stopping.set()
        self._ends.close()


class Application:
    """The WSGI application."""

    def __init__(self, world: World, store: Store) -> None:
        self._world, self._store, self._control = world, store, world.control
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._model = service_model("sagemaker")
        known = set(self._model.operation_names)
        self._services: list[Any] = []
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {}
        self._routes: list[tuple[re.Pattern[str], str, Callable[..., Answer]]] = []
        for place in SERVICES:
            module, _, name = place.partition(":")
            service = getattr(import_module(module), name)(world)
            world.add_service(service)
            self._services.append(service)
            self._operations |= {op: getattr(service, op) for op in known & set(dir(service))}
            routes = getattr(service, "ROUTES", {})
            self._routes += [(re.compile(p), method, getattr(service, method)) for p, method in routes.items()]

    def recover(self) -> None:
        """Let the services take up what an earlier run left."""
        for service in self._services:
            if hasattr(service, "recover"):
                service.recover()

    def close(self) -> None:
        """Let the services end what they run."""
        for service in reversed(self._services):
            if hasattr(service, "close"):
                service.close()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request, as WSGI wants it."""
        path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
        body = environ["emulator.body"]
        call = Call(environ["REQUEST_METHOD"], path, environ["QUERY_STRING"], environ["emulator.headers"], body)
        answer = self._own(call) if path.startswith("/_emulator/") else self._faulty(call, environ)
        if isinstance(answer, Answer):
            start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", list(answer.headers.items()))
            return [answer.body]
        status, headers, chunks = answer
        start_response(status, headers)
        return [*chunks]

    def _own(self, call: Call) -> Answer:
        try:
            content = json.loads(call.body) if call.body else None
            said = self._control.answer(call.method, call.path.removeprefix("/_emulator/"), content)
        except Refused as refused:
            return refusal("json", refused.code, refused.message, refused.status)
        except (ValueError, TypeError) as error:
            return refusal("json", "ValidationException", str(error), 400)
        return Answer(json.dumps(said).encode(), 200, {"Content-Type": "application/json"})

    def _faulty(self, call: Call, environ: dict[str, Any]) -> Any:  # noqa: ANN401 - an Answer, or moto's triple
        """The answer, unless a fault befalls it."""
        where = f"{call.method} {call.path}"
        found = next(((m, op, f) for p, op, f in self._routes if (m := p.fullmatch(where))), None)
        protocol, operation = ("json", found[1]) if found else asked(call)
        fault = self._control.fault(operation)
        if fault and not fault.after:
            return self._lost(protocol, fault.kind, fault.seconds)
        self._control.count(operation)
        if found:
            answer: Any = self._routed(call, found[2], found[0].groups())
        elif call.headers.get("X-Amz-Target", "").startswith("SageMaker."):
            answer = self._sagemaker(operation, call.body)
        elif protocol == "s3":
            answer = self._s3(call, environ)
        else:
            answer = self._by_moto(environ)
        return self._lost(protocol, fault.kind, fault.seconds) if fault else answer

    def _lost(self, protocol: str, kind: str, seconds: float | None) -> Answer:
        if kind == "timeout":
            self._world.stopping.wait(self._world.settings.hang if seconds is None else seconds)
        if kind in ("timeout", "drop"):
            raise ConnectionError(f"a fault of kind {kind}")
        return fault_answer(protocol, kind)

    def _sagemaker(self, operation: str, body: bytes) -> Answer:
        if operation not in self._operations:
            return refusal("json", "NotImplemented", f"the emulator has no {operation}", 501)
        try:
            request = _object(body)
            wrong = problems(operation, request)
            if wrong:
                found = "1 validation error" if len(wrong) == 1 else f"{len(wrong)} validation errors"
                raise Refused("ValidationException", f"{found} detected: {'; '.join(wrong)}")
            members = getattr(self._model.operation_model(operation).output_shape, "members", {})
            with self._world.lock:
                said = self._operations[operation](request) or {}
                content = json.dumps({k: v for k, v in said.items() if k in members})
        except Refused as refused:
            return refusal("json", refused.code, refused.message, refused.status)
        except Exception:  # an error of ours must reach the client as one, not as a lost connection
            return refusal("json", "InternalFailure", traceback.format_exc(limit=-3), 500)
        return Answer(content.encode(), 200, {"Content-Type": "application/x-amz-json-1.1"})

    def _routed(self, call: Call, method: Callable[..., Answer], groups: tuple[str, ...]) -> Answer:
        try:
            return method(call, *groups)
        except Refused as refused:
            return refusal("json", refused.code, refused.message, refused.status)
        except Exception:  # as above
            return refusal("json", "InternalFailure", traceback.format_exc(limit=-3), 500)

    def _s3(self, call: Call, environ: dict[str, Any]) -> Any:  # noqa: ANN401 - an Answer, or moto's triple
        if call.method == "PUT":
            headers = self._store.put_request(call.path, call.query, call.headers, call.body)
            if headers is not None:
                return Answer(b"", 200, headers)
        answer = self._by_moto(environ)
        if not isinstance(answer, Answer) and answer[0].startswith("2"):
            self._store.keep(call.method, call.path, call.query, call.body)
        return answer

    def _by_moto(self, environ: dict[str, Any]) -> Any:  # noqa: ANN401 - an Answer, or moto's triple
        said: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> None:
            said[:] = [status, headers]

        try:
            chunks = list(self._moto(environ, start_response))
        except NotImplementedError as error:
            return refusal("json", "NotImplemented", f"the emulator has none of this: {error}", 501)
        return said[0], said[1], chunks


def _object(body: bytes) -> dict[str, Any]:
    """A request's members."""
    try:
        request = json.loads(body or b"{}")
    except ValueError as error:
        raise Refused("SerializationException", f"the body is no JSON: {error}") from error
    if not isinstance(request, dict):
        raise Refused("SerializationException", "the body is no JSON object")
    return request
