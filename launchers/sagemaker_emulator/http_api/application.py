"""The emulator's WSGI application: SageMaker's operations go to the services, all others that moto knows to moto.

A service's public methods with the name of an operation (CreateTrainingJob) take a request that AWS's model allows and
return the response. Members that the model does not have are removed, so a record may be the response. Operations of a
region run one at a time, under the lock of its records, and so must not wait; ``Tasks.background`` runs the work.
ROUTES maps requests of other services (a regex of ``POST /path``) to methods that take the Request and the regex's
groups and return a Response; these do not hold the lock. ``recover()``, if a service has it, runs once the server
listens. ``close()`` runs first when the emulator ends.
"""

import io
import json
import re
import traceback
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, TypeAlias

from botocore import xform_name
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.sagemaker.responses import SageMakerResponse

from sagemaker_emulator.account_answers import answer
from sagemaker_emulator.control import Control
from sagemaker_emulator.errors import ApiError
from sagemaker_emulator.http_api import tag_queries
from sagemaker_emulator.http_api.json_body import json_body, json_object
from sagemaker_emulator.http_api.local_requests import refusal, with_bucket_in_path
from sagemaker_emulator.http_api.log_queries import with_stream_names
from sagemaker_emulator.http_api.protocol import error_response, fault_response, operation_of, signed_region
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.regions import Region, Regions
from sagemaker_emulator.request_validation import check, service_model
from sagemaker_emulator.settings import Settings
from sagemaker_emulator.status_page.page import StatusPage, wants_page
from sagemaker_emulator.status_page.request_log import RequestLog
from sagemaker_emulator.storage.object_store import ObjectStore
from sagemaker_emulator.web import Request, Response

_Route: TypeAlias = tuple[re.Match[str], str]  # what matched, and the operation
_ONLY_STORED = "application-autoscaling:"  # moto stores its policies, and nothing scales


class Application:
    """The WSGI application."""

    def __init__(
        self,
        regions: Regions,
        control: Control,
        tasks: Tasks,
        settings: Settings,
        store: ObjectStore,
        page: StatusPage,
        log: RequestLog,
    ) -> None:
        self._regions, self._control, self._page, self._log = regions, control, page, log
        self._tasks, self._settings, self._store = tasks, settings, store
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._model = service_model("sagemaker")

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Respond to one request, as WSGI specifies."""
        path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
        body = environ["emulator.body"]
        call = Request(environ["REQUEST_METHOD"], path, environ["QUERY_STRING"], environ["emulator.headers"], body)
        response: Any = refusal(call)
        if response is not None:
            pass
        elif wants_page(call):
            response = self._page.respond(call)
        elif path.startswith("/_emulator/"):
            response = self._own(call)
        else:
            response = self._with_faults(with_bucket_in_path(call, environ), environ)
        if isinstance(response, Response):
            start_response(f"{response.status} {HTTPStatus(response.status).phrase}", list(response.headers.items()))
            return [response.body]
        status, headers, chunks = response
        start_response(status, headers)
        return [*chunks]

    def _own(self, call: Request) -> Response:
        try:
            content = json_body(call.body) if call.body else None
            result = self._control.handle(call.method, call.path.removeprefix("/_emulator/"), content)
        except ApiError as error:
            return error_response("json", error.code, error.message, error.status)
        except (ValueError, TypeError) as error:
            return error_response("json", "ValidationException", str(error), 400)
        return Response(json.dumps(result).encode(), 200, {"Content-Type": "application/json"})

    def _with_faults(self, call: Request, environ: dict[str, Any]) -> Any:  # noqa: ANN401 - a Response, or moto's triple
        """Respond to a request, or with a fault that was set for it."""
        where, first = f"{call.method} {call.path}", self._regions.first
        route = next(((m, op) for p, op in first.routes if (m := p.fullmatch(where))), None)
        protocol, operation = ("json", route[1]) if route else operation_of(call)
        fault, status = self._control.fault(operation), None
        instead = fault is not None and not fault.after
        try:
            response: Any = None
            if not instead:
                self._control.count(operation)
                response = self._respond(call, environ, route, protocol, operation)
            if fault:
                response = self._fault(protocol, fault.kind, fault.seconds)
            status = response.status if isinstance(response, Response) else int(response[0].split()[0])
            return response
        finally:
            of_others = ":" in operation and not operation.startswith(_ONLY_STORED)
            known = route or of_others or operation in first.operations
            self._log.add(call.method, operation, status, executed=bool(known) and not instead)

    def _respond(
        self, call: Request, environ: dict[str, Any], route: _Route | None, protocol: str, operation: str
    ) -> Any:  # noqa: ANN401 - a Response, or moto's triple
        region = signed_region(call)
        if route or call.headers.get("X-Amz-Target", "").startswith("SageMaker."):
            if not route and operation not in self._regions.first.operations and _is_known_to_moto(operation):
                return self._not_executed(call, operation, environ)
            return self._own_service(call, region, route, operation)
        if protocol == "s3":
            return self._s3(call, environ)
        region = region or self._settings.region
        return answer(operation, call.body) or self._other_service(operation, call, region, environ, protocol)

    def _other_service(self, operation: str, call: Request, region: str, environ: dict[str, Any], protocol: str) -> Any:  # noqa: ANN401 - a Response, or moto's triple
        if operation == "logs:FilterLogEvents":
            try:
                body = with_stream_names(call.body, region)
            except ApiError as error:
                return error_response(protocol, error.code, error.message, error.status)
            environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        if operation == tag_queries.OPERATION:
            return self._by_tags(call, region, environ)
        return self._by_moto(environ, protocol)

    def _by_tags(self, call: Request, region: str, environ: dict[str, Any]) -> Any:  # noqa: ANN401 - as above
        """List the resources with some tags: SageMaker's, after those that moto has."""
        try:
            request = json_object(call.body)
            if not tag_queries.asks_for_sagemaker(request):
                return self._by_moto(environ, "json")
            others: list[dict[str, Any]] = []
            if not request.get("ResourceTypeFilters"):
                status, headers, chunks = self._by_moto(environ, "json")
                if not status.startswith("200"):
                    return status, headers, chunks
                others = json.loads(b"".join(chunks))["ResourceTagMappingList"]
            body = tag_queries.get_resources(self._regions.get(region).records, request, others)
        except ApiError as error:
            return error_response("json", error.code, error.message, error.status)
        return Response(body, 200, {"Content-Type": "application/x-amz-json-1.1"})

    def _fault(self, protocol: str, kind: str, seconds: float | None) -> Response:
        if kind == "timeout":
            self._tasks.stopping.wait(self._settings.hang if seconds is None else seconds)
        if kind in ("timeout", "drop"):
            raise ConnectionError(f"a fault of kind {kind}")
        return fault_response(protocol, kind)

    def _own_service(self, call: Request, name: str | None, route: _Route | None, operation: str) -> Response:
        """Respond to an operation of SageMaker in the region that the request is signed for."""
        try:
            region = self._regions.get(name)
            if route:
                response: Response = region.handlers[operation](call, *route[0].groups())
                return response
            return self._sagemaker(region, operation, call.body)
        except ApiError as error:
            return error_response("json", error.code, error.message, error.status)
        except Exception:  # report an error of the emulator to the client, rather than close the connection
            return error_response("json", "InternalFailure", traceback.format_exc(limit=-3), 500)

    def _sagemaker(self, region: Region, operation: str, body: bytes) -> Response:
        if operation not in region.operations:
            raise ApiError("NotImplemented", f"the emulator has no {operation}", 501)
        request = json_object(body)
        check(operation, request)
        members = getattr(self._model.operation_model(operation).output_shape, "members", {})
        with region.records.lock:
            result = region.operations[operation](request) or {}
            content = json.dumps({k: v for k, v in result.items() if k in members})
        return Response(content.encode(), 200, {"Content-Type": "application/x-amz-json-1.1"})

    def _not_executed(self, call: Request, operation: str, environ: dict[str, Any]) -> Any:  # noqa: ANN401 - as above
        """Let moto store a valid request, or respond from what it has stored."""
        try:
            check(operation, json_object(call.body))
        except ApiError as error:
            return error_response("json", error.code, error.message, error.status)
        return self._by_moto(environ, "json")

    def _s3(self, call: Request, environ: dict[str, Any]) -> Any:  # noqa: ANN401 - a Response, or moto's triple
        if call.method == "PUT":
            headers = self._store.put_request(call.path, call.query, call.headers, call.body)
            if headers is not None:
                return Response(b"", 200, headers)
        with self._store.lock:
            response = self._by_moto(environ, "s3")
            if not isinstance(response, Response) and response[0].startswith("2"):
                self._store.keep(call.method, call.path, call.query, call.body)
        return response

    def _by_moto(self, environ: dict[str, Any], protocol: str) -> Any:  # noqa: ANN401 - a Response, or moto's triple
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> None:
            started[:] = [status, headers]

        try:
            chunks = list(self._moto(environ, start_response))
        except NotImplementedError as error:
            return error_response(protocol, "NotImplemented", f"the emulator does not have this: {error}", 501)
        return started[0], started[1], chunks


def _is_known_to_moto(operation: str) -> bool:
    return hasattr(SageMakerResponse, xform_name(operation))
