"""The identifier of each request, the bodies of errors, and the access log."""

import json
import os
import re
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
_GIVEN = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)  # what is accepted of a client, and safe in a log
_PATH = 1_000  # characters of a path in the log


def error_body(scope: Scope, code: str, message: str) -> dict[str, Any]:
    """The body of an error: its kind and a sentence; the Open Inference Protocol has only the sentence."""
    error = message if scope["path"].startswith("/v2/") else {"code": code, "message": message}
    return {"error": error, "request_id": scope.get("request_id")}


class RequestLog:
    """ASGI middleware that gives every request an identifier, and logs it.

    The identifier is the client's X-Request-Id if it has up to 128 plain characters, otherwise a new one. It is in the
    same header of the response, in the bodies of errors and in the log.

    Args:
        app: the application.
        as_json: whether to print a line of JSON to stdout for each request.
        with_process: whether the line has the process, of a server with several.
    """

    def __init__(self, app: ASGIApp, *, as_json: bool, with_process: bool = False) -> None:
        self._app, self._as_json = app, as_json
        self._more = {"process": os.getpid()} if with_process else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(HEADER, "")
        scope["request_id"] = given if _GIVEN.fullmatch(given) else uuid.uuid4().hex
        start, at = time.perf_counter(), datetime.now(UTC)
        status, received, sent, failure = 500, 0, 0, None

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def marked(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(raw=message.setdefault("headers", []))[HEADER] = scope["request_id"]
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, counted, marked)
        except Exception as error:
            failure = type(error).__name__
            print(f"request {scope['request_id']} failed: {failure}", file=sys.stderr, flush=True)
            raise
        finally:
            if self._as_json:
                line = {
                    "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                    "request_id": scope["request_id"],
                    "client": (scope.get("client") or ("",))[0],
                    "method": scope["method"],
                    "path": scope["path"][:_PATH],
                    "status": status,
                    "model": scope.get("model"),
                    "seconds": round(time.perf_counter() - start, 4),
                    "bytes_in": received,
                    "bytes_out": sent,
                }
                print(json.dumps(line | self._more | ({"error": failure} if failure else {})), flush=True)
