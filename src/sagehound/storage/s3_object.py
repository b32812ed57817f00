"""Downloads an object of S3 once for each of its versions. boto3 is imported only here, and only when it is used."""

import hashlib
import shutil
from pathlib import Path

from sagehound.errors import ConfigError, InputError
from sagehound.storage.atomic import replacing
from sagehound.system import console

_REASONS = {
    "404": "no such object",
    "NoSuchKey": "no such object",
    "NoSuchBucket": "no such bucket",
    "403": "access denied, or no such object",
    "412": "it was replaced during the download: run again",
}


def is_s3(uri: str) -> bool:
    """Whether a text is an address in S3."""
    return uri.startswith("s3://")


def parts(uri: str, key: str) -> tuple[str, str]:
    """Bucket and key of an address in S3; arguments as in ``fetch``.

    Raises:
        ConfigError: it is not complete.
    """
    bucket, _, name = uri.removeprefix("s3://").partition("/")
    if not bucket or not Path(name).name:
        raise ConfigError(f"{key}={uri}: give s3://BUCKET/KEY")
    return bucket, name


def fetch(uri: str, folder: Path, key: str) -> Path:
    """Download an object unless ``folder`` has it with the same ETag; returns its file.

    Credentials, region and endpoint are boto3's: AWS_PROFILE, AWS_ENDPOINT_URL and so on.

    Args:
        uri: s3://BUCKET/KEY.
        folder: of the downloaded files.
        key: the setting that gives the address, for messages.

    Raises:
        ConfigError: boto3 is not installed, or ``uri`` is not complete.
        InputError: the object does not exist, or cannot be read.
        SagehoundError: the disk is full.
    """
    bucket, name = parts(uri, key)
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise ConfigError(f"{key}={uri} needs boto3: pip install 'sagehound[sagemaker]'") from error
    try:
        s3 = boto3.Session().client("s3", config=Config(connect_timeout=5, retries={"total_max_attempts": 3}))
        etag = s3.head_object(Bucket=bucket, Key=name)["ETag"]
        version = hashlib.sha256(f"{bucket}/{name} {etag}".encode()).hexdigest()[:16]
        path = folder / version / Path(name).name
        if not path.exists():
            console.info(f"downloading {uri}")
            with replacing(path) as temporary, temporary.open("wb") as file:
                shutil.copyfileobj(s3.get_object(Bucket=bucket, Key=name, IfMatch=etag)["Body"], file)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code"))
        raise InputError(f"{key}={uri}: {_REASONS.get(code, error)}; give another address, or a file") from error
    except BotoCoreError as error:  # no credentials, no region, no connection
        reason = str(error).rstrip(".")
        raise InputError(f"{key}={uri}: {reason}; check AWS_PROFILE and AWS_ENDPOINT_URL, or give a file") from error
    return path
