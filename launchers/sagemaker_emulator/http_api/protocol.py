"""The operation that a request names, and errors in the form of each of AWS's protocols."""

import json
import re
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from sagemaker_emulator.http_api.s3_operations import s3_operation
from sagemaker_emulator.web import Request, Response

_SCOPE = re.compile(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/aws4_request")
_OF_SERVICE = {"ec2": "ec2", "route53": "query", "cloudfront": "query"}  # others are s3, query, or else json

# Code, message and status of a fault: for S3, for the query protocol (IAM, STS), and for the others.
_FAULTS = {
    "throttle": {
        "s3": ("SlowDown", "Please reduce your request rate.", 503),
        "query": ("Throttling", "Rate exceeded", 400),
        "json": ("ThrottlingException", "Rate exceeded", 400),
    },
    "error": {
        "s3": ("InternalError", "We encountered an internal error. Please try again.", 500),
        "query": ("InternalFailure", "The request processing has failed because of an unknown error.", 500),
        "json": ("InternalFailure", "The request processing has failed because of an unknown error.", 500),
    },
    "expired_token": {
        "s3": ("ExpiredToken", "The provided token has expired.", 400),
        "query": ("ExpiredToken", "The security token included in the request is expired", 403),
        "json": ("ExpiredTokenException", "The security token included in the request is expired", 400),
    },
}


def operation_of(call: Request) -> tuple[str, str]:
    """The protocol (s3, query, ec2 or json) and the operation: CreateTrainingJob, s3:PutObject, iam:GetRole."""
    target = call.headers.get("X-Amz-Target", "")
    if target.startswith("SageMaker."):
        return "json", target.partition(".")[2]
    scope = _SCOPE.search(call.headers.get("Authorization", ""))
    service = scope[2] if scope else "s3"
    if target:
        return "json", f"{service}:{target.rpartition('.')[2]}"
    if service == "s3":
        return "s3", "s3:" + s3_operation(call.method, call.path, call.query)
    if "form-urlencoded" in call.headers.get("Content-Type", ""):
        protocol = _OF_SERVICE.get(service, "query")
        return protocol, f"{service}:{parse_qs(call.body.decode(errors='replace')).get('Action', ['?'])[0]}"
    return _OF_SERVICE.get(service, "json"), f"{service}:{call.path.rpartition('/')[2]}"


def signed_region(call: Request) -> str | None:
    """The region that a request is signed for; None if it is not signed."""
    scope = _SCOPE.search(call.headers.get("Authorization", ""))
    return scope[1] if scope else None


def signed_service(call: Request) -> str | None:
    """The service that a request is signed for, such as s3; None if it is not signed."""
    scope = _SCOPE.search(call.headers.get("Authorization", ""))
    return scope[2] if scope else None


def error_response(protocol: str, code: str, message: str, status: int) -> Response:
    """An error in a protocol's form."""
    if protocol == "json":
        body = json.dumps({"__type": code, "message": message, "Message": message})
        kind = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-errortype": code}
        return Response(body.encode(), status, kind)
    inner = f"<Code>{code}</Code><Message>{escape(message)}</Message>"
    if protocol == "s3":
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'
    elif protocol == "ec2":
        body = f"<Response><Errors><Error>{inner}</Error></Errors></Response>"
    else:
        body = f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error></ErrorResponse>"
    return Response(body.encode(), status, {"Content-Type": "application/xml"})


def fault_response(protocol: str, kind: str) -> Response:
    """The response of a fault of kind throttle, error or expired_token."""
    forms = _FAULTS[kind]
    return error_response(protocol, *forms.get(protocol, forms["query"]))
