"""Applies the rules of access to every request, and headers for browsers to every response."""

import base64
import hashlib
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sagehound.serving.access import Access, RateLimit
from sagehound.serving.request_log import error_body
from sagehound.serving.shared import SharedRateLimit

_NEVER = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_NOTHING = f"default-src 'none'; {_NEVER}"
_PAGE = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; " + _NEVER
_HEADERS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}
_HEALTH = ("/ping", "/health", "/v2/health/live", "/v2/health/ready")
_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


class Guard:
    """ASGI middleware. ``scope["is_admin"]`` tells the routes whether the client may administer models.

    Args:
        app: the application.
        access: the rules.
        docs: the page at /docs, whose inline script is allowed by its hash.
        limit: of the requests of each client.
    """

    def __init__(self, app: ASGIApp, access: Access, docs: bytes, limit: RateLimit | SharedRateLimit | None) -> None:
        self._app, self._access, self._limit = app, access, limit
        hashes = [base64.b64encode(hashlib.sha256(s).digest()).decode() for s in _SCRIPT.findall(docs)]
        scripts = " ".join(f"'sha256-{h}'" for h in hashes)
        self._policies = {
            "/": _PAGE,
            "/docs": f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
            f"connect-src 'self'; img-src 'self' data:; {_NEVER}",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, unless a rule refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers["Content-Security-Policy"] = self._policies.get(scope["path"], _NOTHING)
                headers.update(_HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, marked)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """The response to a request that a rule refuses. Health checks know neither host nor token."""
        path, headers, access = scope["path"], Headers(scope=scope), self._access
        if path in _HEALTH:
            return None
        hosts = headers.getlist("host")
        if len(hosts) > 1 or (not hosts and scope["http_version"] == "1.1" and "*" not in access.hosts):
            return _refused(scope, 400, "bad_request", "send one header Host")
        if hosts and not access.is_host(hosts[0]):
            return _refused(
                scope, 421, "unknown_host", "the header Host names another server: see deploy.allowed_hosts"
            )
        if scope["method"] != "GET" and headers.get("sec-fetch-site") == "cross-site":  # browsers send it
            return _refused(scope, 403, "cross_site", "a page of another site sent this; it may not use the server")
        client = (scope.get("client") or ("",))[0]
        if self._limit and (seconds := self._limit.wait(client)):
            return _refused(scope, 429, "too_many_requests", f"wait {seconds} s", {"Retry-After": str(seconds)})
        authorised = access.is_authorised(headers.get("authorization", ""))
        if access.token is not None and not authorised:
            asked = {"WWW-Authenticate": 'Basic realm="Sagehound: any user, the token as password", charset="UTF-8"'}
            return _refused(scope, 401, "unauthorized", "send the server's token: Authorization: Bearer TOKEN", asked)
        proxied = "x-forwarded-for" in headers or "forwarded" in headers
        scope["is_admin"] = authorised or (access.local_admin and (access.proxied_admin or not proxied))
        return None


def _refused(scope: Scope, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(error_body(scope, code, message), status, headers)


class HeadAsGet:
    """ASGI middleware that handles HEAD as GET; the server leaves out the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)
