"""Tiny models in S3, and endpoints of them."""

import io
import json
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emulator_helpers import BUCKET, ROLE, Client, client, until

from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings

TINY = "123456789012.dkr.ecr.us-west-2.amazonaws.com/tiny:1"
SERVE = [sys.executable, str(Path(__file__).with_name("tiny_server.py"))]


@contextmanager
def hosting(folder: Path, **settings: float) -> Iterator[Emulator]:
    """An emulator that knows the tiny image, with a bucket."""
    known = Settings(images={"/tiny:": {"serve": SERVE}}, **({"grace": 2.0, "startup": 30.0} | settings))  # type: ignore[arg-type] # of floats
    with Emulator(folder, settings=known) as running:
        s3 = client(running, "s3")
        if BUCKET not in [b["Name"] for b in s3.list_buckets()["Buckets"]]:
            s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        yield running


def packed(**files: str) -> bytes:
    """A tar.gz of some files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def make_model(emulator: Emulator, name: str, many: bool = False, image: str = TINY, **environment: str) -> str:
    """A model with an artefact that says its name; ``many``: those under models/."""
    key = "models/" if many else f"{name}.tar.gz"
    if not many:
        client(emulator, "s3").put_object(Bucket=BUCKET, Key=key, Body=packed(name=name))
    container = {"Image": image, "ModelDataUrl": f"s3://{BUCKET}/{key}", "Environment": environment}
    if many:
        container["Mode"] = "MultiModel"
    client(emulator, "sagemaker").create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    return name


def variant(model: str, **more: object) -> dict[str, Any]:
    found = {"VariantName": "AllTraffic", "ModelName": model, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    return found | more


def make_config(emulator: Emulator, name: str, *variants: dict[str, Any], **more: object) -> str:
    client(emulator, "sagemaker").create_endpoint_config(
        EndpointConfigName=name, ProductionVariants=list(variants), **more
    )
    return name


def make_endpoint(emulator: Emulator, name: str, *variants: dict[str, Any], **more: object) -> dict[str, Any]:
    """An endpoint that has come up, or failed to; ``more``: of its configuration."""
    make_config(emulator, name, *variants, **more)
    sm = client(emulator, "sagemaker")
    sm.create_endpoint(EndpointName=name, EndpointConfigName=name)
    return settled(sm, name)


def settled(sm: Client, name: str) -> dict[str, Any]:
    return until(
        lambda: sm.describe_endpoint(EndpointName=name), lambda d: d["EndpointStatus"] in ("InService", "Failed"), 90
    )


def invoke(emulator: Emulator, endpoint: str, body: bytes = b"hello", **more: str) -> Any:  # noqa: ANN401 - JSON's
    """What an endpoint answers, as JSON."""
    answer = client(emulator, "sagemaker-runtime").invoke_endpoint(EndpointName=endpoint, Body=body, **more)
    return json.loads(answer["Body"].read())
