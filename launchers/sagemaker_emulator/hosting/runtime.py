"""InvokeEndpoint: passes a request to a variant's container within AWS's limits, and returns its response."""

import json
import time
import uuid
from collections.abc import Mapping
from typing import ClassVar

from sagemaker_emulator.errors import ApiError, JobFailed
from sagemaker_emulator.hosting.data_capture import capture
from sagemaker_emulator.hosting.deployment import LOGS, Deployment
from sagemaker_emulator.hosting.endpoints import Endpoints
from sagemaker_emulator.hosting.invocation_metrics import InvocationMetrics
from sagemaker_emulator.hosting.model_container import ModelContainer, NoReply, Reply, TimedOut
from sagemaker_emulator.hosting.multi_model import LoadFailed
from sagemaker_emulator.hosting.shadow_variants import ShadowVariants
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.processes.containers import Containers
from sagemaker_emulator.storage.records import Record
from sagemaker_emulator.storage.transfers import Transfers
from sagemaker_emulator.web import Request, Response

_MOST = 25 * 2**20  # bytes of a request's body
_ROOM = 4096  # bytes by which the limit in AWS's message is higher
_MOST_SERVERLESS = 4 * 2**20
_HEADER = "X-Amzn-SageMaker-"
_PASSED = ("Content-Type", "Accept", f"{_HEADER}Custom-Attributes", f"{_HEADER}Inference-Id", f"{_HEADER}Session-Id")
_TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container primary. Review the latency metrics for "
    "each container in Amazon CloudWatch, resolve the issue, and try again."
)
_EXITED = "An error occurred while handling request as the model process exited."


class Runtime:
    """The API of SageMaker's runtime, which invokes endpoints."""

    ROUTES: ClassVar[dict[str, str]] = {
        r"POST /endpoints/([^/]+)/invocations": "InvokeEndpoint",
        r"POST /endpoints/([^/]+)/invocations-response-stream": "InvokeEndpointWithResponseStream",
    }

    def __init__(
        self,
        endpoints: Endpoints,
        identity: Identity,
        containers: Containers,
        transfers: Transfers,
        shadows: ShadowVariants,
        metrics: InvocationMetrics,
    ) -> None:
        self._endpoints, self._identity, self._containers = endpoints, identity, containers
        self._transfers, self._shadows, self._metrics = transfers, shadows, metrics

    def InvokeEndpoint(self, call: Request, name: str) -> Response:
        """The response of one variant's container.

        Raises:
            ApiError: there is no such endpoint, variant or model, or the body is too large.
        """
        received = time.monotonic()
        if len(call.body) > _MOST:
            raise ApiError("413", f"HTTP content length exceeded {_MOST + _ROOM} bytes.", 413)
        for member in ("Target-Container-Hostname", "Inference-Component", "Enable-Explanations"):
            if call.headers.get(_HEADER + member):
                raise ApiError("ValidationError", f"The emulator has no endpoints for {_HEADER}{member}.")
        with self._endpoints.serving(name) as deployment:
            variant, server = deployment.choose(call.headers.get(f"{_HEADER}Target-Variant"))
            target = call.headers.get(f"{_HEADER}Target-Model")
            _check(name, deployment, variant, target, len(call.body))
            headers = {k: call.headers[k] for k in _PASSED if k in call.headers}
            most = variant.get("ServerlessConfig", {}).get("MaxConcurrency")
            with deployment.slot(most) as is_free:
                if not is_free:  # AWS's code and wording are from memory
                    raise ApiError("ThrottlingException", f"Endpoint {name} serves {most} requests at a time.", 429)
                self._shadows.copy(deployment, call, headers)
                sent = time.monotonic()
                reply = self._reply(server, call.body, headers, target)
            latency = time.monotonic() - sent
            if not 200 <= reply.status < 300:
                response = self._model_error(name, reply.status, reply.body.decode(errors="replace"))
            else:
                response = _answer(reply, variant["VariantName"])
                self._capture(deployment, variant["VariantName"], call, response)
            overhead = time.monotonic() - received - latency
            self._metrics.add(deployment, variant, reply.status, latency, overhead)
        return response

    def _reply(self, server: ModelContainer, body: bytes, headers: Mapping[str, str], target: str | None) -> Reply:
        """A container's response; status 0: it did not respond."""
        try:
            return server.invoke(body, headers, self._containers.settings.response, target)
        except LoadFailed as error:
            return error.reply
        except TimedOut:
            return Reply(0, {}, _TIMED_OUT.encode())
        except NoReply:
            return Reply(0, {}, _EXITED.encode())

    def _capture(self, deployment: Deployment, variant: str, call: Request, answer: Response) -> None:
        """Write a call to S3, if the endpoint captures data."""
        if config := deployment.config.get("DataCaptureConfig"):
            try:
                reply = (answer.headers, answer.body)
                capture(self._transfers, config, deployment.endpoint, variant, call, reply)
            except JobFailed as error:
                self._endpoints.log(deployment.endpoint, f"data capture: {error}")

    def InvokeEndpointWithResponseStream(self, call: Request, name: str) -> Response:
        """Always refused: responses are not streamed."""
        message = f"The emulator streams no answers: send {name} an InvokeEndpoint."
        raise ApiError("NotImplemented", message, 501)

    def _model_error(self, name: str, status: int, message: str) -> Response:
        """The response after a container's error, as AWS words it."""
        region, account = self._identity.region, self._identity.account
        whose = "client" if 400 <= status < 500 else "server"
        where = f"https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}#logEventViewer:group={LOGS}/{name}"
        body = {
            "ErrorCode": "CLIENT_ERROR_FROM_MODEL" if whose == "client" else "INTERNAL_FAILURE_FROM_MODEL",
            "LogStreamArn": f"arn:aws:logs:{region}:{account}:log-group:{LOGS}/{name}",
            "Message": f'Received {whose} error ({status}) from primary with message "{message}". See {where} in '
            f"account {account} for more information.",
            "OriginalMessage": message,
            "OriginalStatusCode": status,
        }
        headers = {"Content-Type": "application/json", "x-amzn-ErrorType": "ModelError"}
        return Response(json.dumps(body).encode(), 424, headers)


def _check(name: str, deployment: Deployment, variant: Record, target: str | None, size: int) -> None:
    many = variant["_Container"]["Mode"] == "MultiModel"
    if "AsyncInferenceConfig" in deployment.config:
        raise ApiError("ValidationError", f"Endpoint {name} is asynchronous: send it an InvokeEndpointAsync.")
    if "ServerlessConfig" in variant and size > _MOST_SERVERLESS:
        raise ApiError("ValidationError", f"Request {uuid.uuid4()} has oversize body.")
    if target and not many:
        raise ApiError(
            "ValidationError",
            f"Endpoint {name} is not a multi-model endpoint and does not support target model header.",
        )
    if many and not target:
        raise ApiError("ValidationError", f"Request {uuid.uuid4()} is missing a target model header.")


def _answer(reply: Reply, variant: str) -> Response:
    headers = {"Content-Type": reply.headers.get("Content-Type", "application/octet-stream")}
    headers |= {k: reply.headers[k] for k in (f"{_HEADER}Custom-Attributes",) if k in reply.headers}
    return Response(reply.body, 200, headers | {"x-Amzn-Invoked-Production-Variant": variant})
