"""`transform=sagemaker`: predictions of many photos by a batch transform job, brought back with their names."""

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagehound.data.folders import LeftOut, is_photo, photos_below
from sagehound.errors import ConfigError, InputError
from sagehound.inference.formats import PhotoResult, failure
from sagehound.serving.prediction_lines import CSV_HEADER, csv_line, json_line
from sagehound.storage.atomic import replacing, write_json
from sagehound.system import console
from sagehound_launchers.config import Launch
from sagehound_launchers.sagemaker import account, cost, hosting_requests, inventory, job_client, photo_upload, uploads
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import RemoteError, aws_errors
from sagehound_launchers.sagemaker.aws_errors import failure as reason_of
from sagehound_launchers.sagemaker.job_client import Log, OneJob
from sagehound_launchers.sagemaker.requests import check, tags

if TYPE_CHECKING:
    from sagehound_launchers.stages.transform import Transform

_LEAST_MB, _MOST_MB = 6, 100  # of MaxPayloadInMB, and of its product with MaxConcurrentTransforms: AWS's API reference
_AT_ONCE = 8  # calls of an instance
_HOURS = 24.0  # for the estimated cost; AWS has no limit for these jobs
_GROUP = "/aws/sagemaker/TransformJobs"


@dataclass(frozen=True)
class Source:
    """Photos in S3."""

    bucket: str
    prefix: str  # with a slash at its end
    photos: Mapping[str, tuple[str, int]]  # ETag and bytes, by the name below the prefix
    others: int  # objects that are no photos

    @property
    def uri(self) -> str:
        """Its address."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def digest(self) -> str:
        """SHA-256 of the photos' names and contents."""
        return hashlib.sha256(json.dumps(sorted(self.photos.items())).encode()).hexdigest()


def transform(cfg: Launch, own: "Transform", model: str, place: str, output: Path) -> int:
    """Predict every photo in a folder or below an address in S3, and write ``output`` as transform=local does.

    The same command with the same model and photos follows its job, or takes the results of the one that has ended.

    Returns:
        the number of photos without a prediction.

    Raises:
        InputError: there is no photo, or one is too large.
        RemoteError: the job has predicted no photo; a file of former predictions stays.
        Stopped: Ctrl-C or SIGTERM came.
    """
    cloud = account.connect(cfg.aws, dry_run=cfg.dry_run)
    source = find_source(cloud, cfg, place)
    uri = uploads.model(cloud, cfg.aws.prefix, model, dry_run=cfg.dry_run)
    name = job_client.content_name("sagehound", uri, source.uri, source.digest, own.top_k)
    model_request = hosting_requests.model(name, "transform", uri, cloud.account, cfg.aws)
    request = job_request(name, cfg, own, source, cloud.account.bucket)
    check("CreateModel", model_request)
    check("CreateTransformJob", request)
    if cfg.dry_run:
        path = output.with_name("transform_requests.json")
        write_json(path, {"CreateModel": model_request, "CreateTransformJob": request})
        console.info(f"dry_run: nothing was sent; the job's requests: {path}")
        return 0
    if not cloud.emulated:
        console.info(f"cost: {cost.estimate(own.instance_type, own.instance_count, _HOURS, cloud.region)}")

    def prepare(_: str) -> None:
        inventory.create(cloud, "CreateModel", model_request)
        write_manifest(cloud, request, source)

    job = OneJob(
        "transform_job",
        name,
        request=lambda attempt: request | {"TransformJobName": attempt},
        prepare=prepare,
        is_usable=lambda ended: _is_usable(cloud, ended, source),
        log=None,  # it has a stream for each instance; the reasons of photos are read from it
    )
    described = job_client.run(cloud, cfg.aws, job)
    inventory.delete_model(cloud, name)  # a job keeps what it has read
    results = _results(cloud, described, source)
    if all("error" in result for result in results.values()):
        _print_log(cloud, described["TransformJobName"])
        reason = described.get("FailureReason") or f"{described['TransformJobStatus']}, and no photo has a prediction"
        raise RemoteError(f"transform job {described['TransformJobName']}: {reason_of(reason)}")
    _write(output, results)
    return sum("error" in result for result in results.values())


def job_request(name: str, cfg: Launch, own: "Transform", source: Source, bucket: str) -> dict[str, Any]:
    """CreateTransformJob.

    Args:
        name: of the job and of its model.
        cfg: the config, for what is under aws.
        own: the keys of the group ``transform``.
        source: the photos.
        bucket: for the results.

    Raises:
        InputError: a photo is larger than AWS allows.
    """
    largest = max(source.photos, key=lambda photo: source.photos[photo][1], default="")
    megabytes = max(_LEAST_MB, math.ceil(source.photos[largest][1] / 2**20) if largest else 0)
    if megabytes > _MOST_MB:
        raise InputError(f"{source.uri}{largest}: more than {_MOST_MB} MB, which a transform job does not take")
    kms = {"KmsKeyId": cfg.aws.kms_key} if cfg.aws.kms_key else {}
    resources: dict[str, Any] = {"InstanceType": own.instance_type, "InstanceCount": own.instance_count}
    place = {"S3DataType": "S3Prefix", "S3Uri": source.uri}
    if source.others:
        place = {
            "S3DataType": "ManifestFile",
            "S3Uri": f"s3://{bucket}/{cfg.aws.prefix}/transform/{name}/photos.manifest",
        }
    return {
        "TransformJobName": name,
        "ModelName": name,
        "MaxConcurrentTransforms": min(_AT_ONCE, _MOST_MB // megabytes),
        "MaxPayloadInMB": megabytes,
        "BatchStrategy": "SingleRecord",
        "TransformInput": {
            "DataSource": {"S3DataSource": place},
            "ContentType": "application/x-image",
            "SplitType": "None",
        },
        "TransformOutput": {
            "S3OutputPath": f"s3://{bucket}/{cfg.aws.prefix}/transform/{name}/out",
            "Accept": f"application/json; top_k={own.top_k}",
            "AssembleWith": "None",
            **kms,
        },
        "TransformResources": resources,
        "Tags": tags(cfg.aws, "transform"),
    }


def find_source(cloud: Cloud, cfg: Launch, given: str) -> Source:
    """The photos in S3; those of a folder are uploaded."""
    if cfg.data.s3:
        bucket, _, prefix = given.removeprefix("s3://").partition("/")
        if not given.startswith("s3://") or not bucket:
            raise ConfigError(f"data.s3={given}: give s3://BUCKET/PREFIX")
        prefix = f"{prefix.rstrip('/')}/" if prefix else ""
    else:
        root = Path(given)
        if not root.is_dir():
            raise InputError(f"data.root={root}: no such folder (from {Path.cwd()})")
        place = f"{platform.node()}:{root.resolve()}"
        folder = f"{root.resolve().name}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
        own = f"{cfg.aws.prefix}/transform-photos/{folder}"
        bucket, prefix = cloud.account.bucket, f"{own}/photos/"
        names = list(photos_below(root, LeftOut()))
        if not names:
            raise InputError(f"data.root={root}: no photo lies in it or below")
        if cfg.dry_run:
            return Source(bucket, prefix, {name: ("", 0) for name in names}, 0)
        console.info(str(photo_upload.upload_loose(root, cloud.client("s3"), bucket, own, names=names)))
    photos, others = {}, 0
    with aws_errors(f"listing s3://{bucket}/{prefix}"):
        for page in cloud.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                if is_photo(item["Key"]):
                    photos[item["Key"].removeprefix(prefix)] = (item["ETag"], item["Size"])
                else:
                    others += 1
    if not photos:
        raise InputError(f"s3://{bucket}/{prefix}: no photo is there")
    return Source(bucket, prefix, photos, others)


def write_manifest(cloud: Cloud, request: dict[str, Any], source: Source) -> None:
    """Write the list of photos, if other objects are beside them."""
    place = request["TransformInput"]["DataSource"]["S3DataSource"]
    if place["S3DataType"] != "ManifestFile":
        return
    bucket, _, key = place["S3Uri"].removeprefix("s3://").partition("/")
    content = json.dumps([{"prefix": source.uri}, *sorted(source.photos)]).encode()
    with aws_errors(f"writing {place['S3Uri']}"):
        cloud.client("s3").put_object(Bucket=bucket, Key=key, Body=content)


def _is_usable(cloud: Cloud, ended: dict[str, Any], source: Source) -> bool:
    """Whether an ended job has results, and, unless it is completed, says why each of the other photos has none.

    AWS calls a job failed if it could not predict one photo. Another job would not predict it either.
    """
    there = _keys(cloud, ended)
    missing = [photo for photo in source.photos if f"{photo}.out" not in there]
    if ended["TransformJobStatus"] == "Completed" or not there:
        return bool(there)
    reasons = _reasons(cloud, ended["TransformJobName"], source)
    return ended["TransformJobStatus"] == "Failed" and all(photo in reasons for photo in missing)


def _keys(cloud: Cloud, described: dict[str, Any]) -> dict[str, str]:
    """The keys of a job's results by their names below its prefix."""
    bucket, _, prefix = described["TransformOutput"]["S3OutputPath"].removeprefix("s3://").partition("/")
    with aws_errors(f"looking at the results of {described['TransformJobName']}"):
        pages = cloud.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
        return {
            item["Key"].removeprefix(f"{prefix}/"): item["Key"] for page in pages for item in page.get("Contents", [])
        }


def _results(cloud: Cloud, described: dict[str, Any], source: Source) -> dict[str, PhotoResult]:
    """The response for each photo in order; an error for those that the job could not predict."""
    bucket = described["TransformOutput"]["S3OutputPath"].removeprefix("s3://").partition("/")[0]
    s3, name, keys = cloud.client("s3"), described["TransformJobName"], _keys(cloud, described)

    def read(photo: str) -> PhotoResult | None:
        key = keys.get(f"{photo}.out")
        return json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) if key else None

    with aws_errors(f"reading the results of {name}"), ThreadPoolExecutor(16) as pool:
        responses = dict(zip(sorted(source.photos), pool.map(read, sorted(source.photos)), strict=True))
    reasons = _reasons(cloud, name, source) if None in responses.values() else {}
    unknown = f"the job has no prediction; the log {_GROUP}, {name}, says why"
    return {p: r or failure(InputError(reasons.get(p, unknown))) for p, r in responses.items()}


def _reasons(cloud: Cloud, name: str, source: Source) -> dict[str, str]:
    """Why photos have no prediction: the container's messages, which the service writes to its data log."""
    logs, reasons, start = cloud.client("logs"), {}, f"{source.bucket}/{source.prefix}"
    with aws_errors(f"reading the log of {name}"):
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=_GROUP, logStreamNamePrefix=f"{name}/")
        for event in (e for page in pages for e in page["events"]):
            _, found, rest = event["message"].partition(start)
            photo, _, text = rest.partition(": ")
            if not found or not text.startswith("{"):
                continue
            with suppress(ValueError, KeyError, TypeError):
                reasons[photo] = str(json.loads(text)["error"]["message"])
    return reasons


def _print_log(cloud: Cloud, name: str) -> None:
    Log(cloud, name, group=_GROUP).print_new()


def _write(output: Path, results: Mapping[str, PhotoResult]) -> None:
    line = json_line if output.suffix == ".jsonl" else csv_line
    with replacing(output) as temporary, temporary.open("wb") as file:
        if output.suffix != ".jsonl":
            file.write(CSV_HEADER)
        file.writelines(line(name, result) for name, result in results.items())
