"""Uploads files to S3, each once: a key depends on the content."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sagehound.artifact import archive
from sagehound.errors import ConfigError
from sagehound.system import console
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import aws_errors, code_of


def send(cloud: Cloud, key: str, content: bytes) -> None:
    """Upload an object whose key depends on its content, unless it is there."""
    if head(cloud, key, len(content)) is None:
        _put(cloud, key, io.BytesIO(content), len(content))


def model(cloud: Cloud, prefix: str, run: str, *, dry_run: bool) -> str:
    """Upload a run's model.tar.gz, unless it is there; returns its address in S3.

    Args:
        cloud: the account.
        prefix: the value of aws.prefix.
        run: a run's folder, or a model.tar.gz.
        dry_run: whether nothing is sent; then the run need not exist.

    Raises:
        InputError: there is no such model.
        ConfigError: the model is unpacked.
    """
    bucket = cloud.account.bucket
    if dry_run and not Path(run).expanduser().exists():
        return f"s3://{bucket}/{prefix}/models/not-trained/{archive.NAME}"
    path = packed(run)
    key = f"{prefix}/models/{archive.digest(path)[:32]}/{archive.NAME}"
    if not dry_run and head(cloud, key, path.stat().st_size) is None:
        with path.open("rb") as file:
            _put(cloud, key, file, path.stat().st_size)
    return f"s3://{bucket}/{key}"


def model_named(cloud: Cloud, prefix: str, name: str, run: str) -> None:
    """Upload a run's model for a multi-model endpoint, as ``prefix``NAME.tar.gz.

    Raises:
        ConfigError: another model has this name. Containers that have opened it would continue to use it.
    """
    path, key = packed(run), f"{prefix}{name}.tar.gz"
    digest = archive.digest(path)
    there = head(cloud, key)
    if there is None:
        with path.open("rb") as file:
            _put(cloud, key, file, path.stat().st_size, {"sha256": digest})
    elif there.get("Metadata", {}).get("sha256") != digest:
        raise ConfigError(
            f"model={run}: the endpoint has another model of the name {name}: give this one another name (that of its "
            "folder), or delete the other one first"
        )


def packed(run: str) -> Path:
    """The model.tar.gz of a run.

    Raises:
        InputError: there is no such model, or it is broken.
        ConfigError: it is unpacked.
    """
    path = archive.find(run)
    if path.is_dir():
        raise ConfigError(f"model={run} is unpacked: give the run's folder or its {archive.NAME}")
    with archive.opened(path) as folder:  # a server would refuse a broken one
        archive.Card.read(folder)
    return path


def head(cloud: Cloud, key: str, size: int | None = None) -> dict[str, Any] | None:
    """The headers of an object in the bucket; None if there is none, or one of another size."""
    from botocore.exceptions import ClientError

    with aws_errors(f"looking at {key}"):
        try:
            found: dict[str, Any] = cloud.client("s3").head_object(Bucket=cloud.account.bucket, Key=key)
        except ClientError as error:
            if code_of(error) not in ("404", "NoSuchKey", "NoSuchBucket"):
                raise
            return None
    return found if size in (None, found["ContentLength"]) else None


def _put(cloud: Cloud, key: str, file: BinaryIO, size: int, metadata: Mapping[str, str] | None = None) -> None:
    more = {"ExtraArgs": {"Metadata": dict(metadata)}} if metadata else {}
    with aws_errors(f"sending {key}"):
        cloud.client("s3").upload_fileobj(file, cloud.account.bucket, key, **more)  # multipart if it is large
    console.info(f"sent {key} ({size / 1e6:.1f} MB)")
