"""Fetches the newest captured requests of an endpoint from S3."""

from pathlib import Path

from sagehound.errors import ConfigError, InputError
from sagehound.monitoring.photo_sources import SUFFIX, time_key
from sagehound.system import console
from sagehound_launchers.sagemaker.account import AwsSession
from sagehound_launchers.sagemaker.aws_errors import aws_errors

_SPARE = 2  # times as many requests as wanted are fetched, because some are repeated or cannot be read


def fetch(session: AwsSession, uri: str, folder: Path, requests: int) -> dict[str, str]:
    """Download the newest capture files until they hold twice ``requests`` lines.

    Args:
        session: with S3.
        uri: s3://BUCKET/PREFIX: DestinationS3Uri, or an endpoint or a variant below it.
        folder: for the files. They are numbered, the newest highest, because a key need not be a file's name.
        requests: that are wanted.

    Returns:
        the keys below the prefix, by the files' names.

    Raises:
        ConfigError: ``uri`` names no bucket.
        InputError: there is no capture file.
        SagehoundError: S3 cannot be read.
    """
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError(f"monitor.captured={uri}: give s3://BUCKET/PREFIX")
    prefix = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
    s3, lines, names = session.client("s3"), 0, {}
    with aws_errors(f"reading {uri}"):
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", []) if item["Key"].endswith(SUFFIX)]
        if not keys:
            raise InputError(f"monitor.captured={uri}: no {SUFFIX} file of captured requests lies below it")
        newest = console.track(sorted(keys, key=time_key, reverse=True), "Fetching captured requests", len(keys))
        for number, key in zip(range(len(keys), 0, -1), newest, strict=True):
            path = folder / f"{number:012}{SUFFIX}"
            names[path.name] = key.removeprefix(prefix)
            s3.download_file(bucket, key, str(path))
            lines += path.read_bytes().count(b"\n")
            if lines >= _SPARE * requests:
                break
    return names
