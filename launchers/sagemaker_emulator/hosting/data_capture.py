"""Data capture: requests and responses of an endpoint as JSON lines in S3, in the form of AWS's files.

AWS collects several records in a file; here each call is a file of its own, so that it can be read at once.
"""

import base64
import json
import random
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

from sagemaker_emulator.storage.records import Record
from sagemaker_emulator.storage.transfers import Transfers, join_uri
from sagemaker_emulator.web import Request

_HEADER = "X-Amzn-SageMaker-"


def capture(
    transfers: Transfers,
    config: Record,
    endpoint: str,
    variant: str,
    call: Request,
    reply: tuple[Mapping[str, str], bytes],
) -> None:
    """Write one call, if it is sampled.

    Args:
        transfers: write to S3.
        config: the DataCaptureConfig.
        endpoint: its name.
        variant: the name of the variant that responded.
        call: the request.
        reply: headers and body of the response.

    Raises:
        JobFailed: there is no such bucket.
    """
    if not config.get("EnableCapture", True) or random.random() * 100 >= config["InitialSamplingPercentage"]:
        return
    modes = {option["CaptureMode"] for option in config["CaptureOptions"]}
    sides = [("endpointInput", "Input", call.headers, call.body), ("endpointOutput", "Output", *reply)]
    data = {
        key: _side(config, mode, headers.get("Content-Type", "application/octet-stream"), body)
        for key, mode, headers, body in sides
        if modes & {mode, "InputAndOutput"}
    }
    now = datetime.now(UTC)
    metadata: Record = {"eventId": str(uuid.uuid4()), "inferenceTime": f"{now:%Y-%m-%dT%H:%M:%SZ}"}
    if attributes := call.headers.get(f"{_HEADER}Custom-Attributes"):
        metadata["customAttributes"] = [attributes]
    if inference := call.headers.get(f"{_HEADER}Inference-Id"):
        metadata["inferenceId"] = inference
    line = json.dumps({"captureData": data, "eventMetadata": metadata, "eventVersion": "0"})
    name = f"{now:%Y/%m/%d/%H}/{now:%M-%S}-{now.microsecond // 1000:03d}-{metadata['eventId']}.jsonl"
    transfers.put(join_uri(config["DestinationS3Uri"], endpoint, variant, name), f"{line}\n".encode())


def _side(config: Record, mode: str, content_type: str, body: bytes) -> Record:
    """A request or a response; text of the types in CaptureContentTypeHeader as it is, all else in base64."""
    types = config.get("CaptureContentTypeHeader", {})
    media = content_type.partition(";")[0].strip().lower()
    encoding = "BASE64"
    for member, name in (("CsvContentTypes", "CSV"), ("JsonContentTypes", "JSON")):
        if media in [t.lower() for t in types.get(member, [])]:
            encoding = name
    try:
        text = base64.b64encode(body).decode() if encoding == "BASE64" else body.decode()
    except UnicodeDecodeError:
        encoding, text = "BASE64", base64.b64encode(body).decode()
    return {"observedContentType": content_type, "mode": mode.upper(), "data": text, "encoding": encoding}
