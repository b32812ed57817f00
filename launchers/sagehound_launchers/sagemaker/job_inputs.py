"""The inputs of a job: uploads the project, the photos and the weights, and names them as channels."""

import hashlib
import platform
from pathlib import Path

from sagehound.data.photos import fetch
from sagehound.errors import ConfigError, InputError
from sagehound.storage import s3_object
from sagehound.system import console, program, project
from sagehound_launchers.config import Launch
from sagehound_launchers.sagemaker import photo_upload, source_archive, uploads
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import aws_errors
from sagehound_launchers.sagemaker.requests import Channel


def channels(cloud: Cloud, cfg: Launch) -> list[Channel]:
    """Upload what is not in S3 yet; with dry_run, upload nothing.

    Args:
        cloud: the account.
        cfg: a job's config.

    Raises:
        InputError: photos or weights are missing or cannot be read; the project holds secrets, or is too large.
        SagehoundError: S3 cannot be reached.
    """
    return [_code(cloud, cfg), _photos(cloud, cfg), *_weights(cloud, cfg)]


def placeholders(cloud: Cloud, cfg: Launch) -> list[Channel]:
    """Channels as ``channels`` names them, so that a request can be checked before anything is uploaded."""
    base = f"s3://{cloud.account.bucket}/{cfg.aws.prefix}"
    names = ["code", "photos"] + ["weights"] * bool(cfg.backbone.weights)
    return [Channel(name, f"{base}/{name}/not-sent") for name in names]


def _code(cloud: Cloud, cfg: Launch) -> Channel:
    with project.folder() as root:
        own = program.config_folders(program.arguments())
        source = source_archive.make(root, tracked=project.checkout() is not None, own=own)
    for note in source.notes:
        console.warn(note)
    prefix = f"{cfg.aws.prefix}/code/{source.digest}/"
    if not cfg.dry_run:
        uploads.send(cloud, f"{prefix}source.tar.gz", source.content)
    return Channel("code", f"s3://{cloud.account.bucket}/{prefix}")


def _photos(cloud: Cloud, cfg: Launch) -> Channel:
    if cfg.data.s3:
        return Channel("photos", _existing(cloud, cfg.data.s3))
    bucket, prefix = cloud.account.bucket, f"{cfg.aws.prefix}/photos"
    fast = cfg.aws.input_mode == "FastFile"  # FastFile takes a prefix, not a manifest
    root = fetch(cfg.data, Path(cfg.cache.dir).expanduser()).resolve()
    place = f"{platform.node()}:{root}"  # the same path on another machine may hold other photos
    own = f"{prefix}/{root.name}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
    if cfg.dry_run:
        return Channel("photos", f"s3://{bucket}/{own if fast else prefix}/not-sent", not fast)
    send = photo_upload.upload_loose if fast else photo_upload.upload_packed
    sent = send(root, cloud.client("s3"), bucket, own if fast else prefix)
    console.info(str(sent))
    return Channel("photos", sent.uri, sent.manifest)


def _existing(cloud: Cloud, uri: str) -> str:
    """Check that the prefix in S3 has objects; returns it with a slash at its end.

    Raises:
        ConfigError: ``uri`` is not s3://BUCKET/PREFIX.
        InputError: the prefix has no objects.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise ConfigError(f"data.s3={uri}: give s3://BUCKET/PREFIX")
    prefix = f"{key.rstrip('/')}/" if key else ""
    with aws_errors(f"looking at data.s3={uri}"):
        objects = cloud.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    if not objects.get("Contents"):
        raise InputError(f"data.s3={uri}: nothing is there; drop data.s3 to send data.root")
    return f"s3://{bucket}/{prefix}"


def _weights(cloud: Cloud, cfg: Launch) -> list[Channel]:
    """A weights file on this machine or in S3. Weights of a package or a hub are found in the container."""
    given = cfg.backbone.weights
    if given is None or given.startswith("pkg://"):
        return []
    content = _read_weights(cloud, given)
    prefix = f"{cfg.aws.prefix}/weights/{hashlib.sha256(content).hexdigest()}/"
    if not cfg.dry_run:
        uploads.send(cloud, f"{prefix}weights{Path(given).suffix}", content)  # alone in its folder, with a fixed name
    return [Channel("weights", f"s3://{cloud.account.bucket}/{prefix}")]


def _read_weights(cloud: Cloud, given: str) -> bytes:
    """The content of backbone.weights. A job gets a copy, so that its role needs no access to another bucket.

    Raises:
        InputError: it cannot be read.
    """
    if s3_object.is_s3(given):
        bucket, key = s3_object.parts(given, "backbone.weights")
        with aws_errors(f"reading backbone.weights={given}"):
            return bytes(cloud.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())
    try:
        return Path(given).expanduser().read_bytes()
    except OSError as error:
        raise InputError(f"backbone.weights={given}: {error.strerror}; give another file") from error
