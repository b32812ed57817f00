"""Which requests the emulator accepts: those that name this machine, and not those of other sites' pages.

A page of another site can make its own name resolve to 127.0.0.1 (DNS rebinding). Its requests then have no foreign
Origin, but the browser still sends the page's name as Host.
"""

import ipaddress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from sagemaker_emulator.http_api.protocol import error_response, signed_service
from sagemaker_emulator.web import Request, Response

_LOCAL = ".localhost"  # browsers resolve NAME.localhost to this machine only: RFC 6761
_FOREIGN = "a page of another site may not use the emulator, which runs every command that it is sent"


def refusal(call: Request) -> Response | None:
    """The response to a request that may come from another site's page, or that AWS has not; None for others."""
    origin, host = call.headers.get("Origin"), call.headers.get("Host", "")
    if origin is not None and not is_local(origin.partition("//")[2]):
        return error_response("json", "AccessDeniedException", _FOREIGN, 403)
    if not is_local(host):
        message = f"Host: {host[:100]!r} is not this machine: use http://127.0.0.1, http://localhost or NAME.localhost"
        return error_response("json", "AccessDeniedException", message, 403)
    if "X-Amz-Target" in call.headers and call.method != "POST":
        message = f"X-Amz-Target needs POST, not {call.method}"
        return error_response("json", "UnknownOperationException", message, 405)
    return None


def is_local(host: str) -> bool:
    """Whether a name with or without a port is this machine's."""
    name = _name(host)
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == _LOCAL[1:] or name.endswith(_LOCAL)


def with_bucket_in_path(call: Request, environ: dict[str, Any]) -> Request:
    """A request of S3 to BUCKET.localhost as one to localhost/BUCKET; others unchanged. ``environ`` is adapted too."""
    name = _name(call.headers.get("Host", ""))
    if not name.endswith(_LOCAL) or signed_service(call) not in (None, "s3") or call.path.startswith("/_emulator/"):
        return call
    bucket = name.removesuffix(_LOCAL)
    environ["PATH_INFO"] = f"/{bucket}{environ['PATH_INFO']}"
    for raw in ("RAW_URI", "REQUEST_URI"):
        if raw in environ:
            environ[raw] = f"/{bucket}{environ[raw]}"
    environ["HTTP_HOST"] = environ["HTTP_HOST"].lower().replace(f"{bucket}{_LOCAL}", _LOCAL[1:], 1)
    return replace(call, path=f"/{bucket}{call.path}")


def _name(host: str) -> str:
    try:
        return "" if "@" in host else urlsplit(f"//{host}").hostname or ""
    except ValueError:  # brackets that do not match
        return ""
