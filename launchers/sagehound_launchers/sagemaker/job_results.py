"""Results of training jobs: downloaded from S3 into the folder of a run."""

import json
from pathlib import Path
from typing import Any

from sagehound.artifact import archive
from sagehound.errors import InputError
from sagehound.storage.archive_reader import Limits
from sagehound.storage.atomic import replacing, write_json
from sagehound.storage.unpacking import unpack_into
from sagehound.system import console
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import RemoteError, aws_errors, code_of, failure
from sagehound_launchers.sagemaker.training_plans import Job

_DESCRIPTION = (  # members of DescribeTrainingJob's response that job.json holds
    "TrainingJobName",
    "TrainingJobArn",
    "TrainingJobStatus",
    "SecondaryStatus",
    "FailureReason",
    "TrainingTimeInSeconds",
    "BillableTimeInSeconds",
    "ModelArtifacts",
    "FinalMetricDataList",
)
_LIMITS = Limits((".tar.gz",), 100_000)
_LOCAL = {"config.yaml", "overrides.yaml", "hydra.yaml"}  # the command on this machine has written its own


def collect(cloud: Cloud, job: Job, ended: dict[str, Any]) -> dict[str, Any]:
    """Download a job's results: metrics, tables, TensorBoard files, model.tar.gz and the debugger's tensors.

    Args:
        cloud: the account.
        job: the job.
        ended: DescribeTrainingJob's response after its end.

    Returns:
        the content of metrics.json.

    Raises:
        RemoteError: the job failed or was stopped.
        SagehoundError: a result could not be downloaded; it stays in S3.
    """
    about = {key: ended.get(key) for key in _DESCRIPTION} | {"request": job.request, "replaces": job.replaces}
    write_json(job.folder / "job.json", json.loads(json.dumps(about, default=str)))
    s3, bucket = cloud.client("s3"), cloud.account.bucket
    base = f"{job.cfg.aws.prefix}/jobs/{job.name}"
    with aws_errors(f"fetching the results of {job.name}, which stay in s3://{bucket}/{base}"):
        if _download(s3, bucket, f"{base}/output/output.tar.gz", job.folder / "output.tar.gz"):
            _unpack(job.folder / "output.tar.gz", job.folder)
        _download(s3, bucket, f"{base}/output/model.tar.gz", job.folder / archive.NAME)
        if job.cfg.debugger and job.cfg.debugger.name == "sagemaker":
            download_all(s3, bucket, f"{base}/debug-output/", job.folder / "debugger" / "tensors")
    if ended["TrainingJobStatus"] != "Completed":
        reason = failure(ended.get("FailureReason") or ended["SecondaryStatus"])
        raise RemoteError(f"job {job.name}: {ended['TrainingJobStatus']}: {reason}; its log is printed above")
    try:
        metrics: dict[str, Any] = json.loads((job.folder / "metrics.json").read_text())
    except (OSError, ValueError) as error:
        raise RemoteError(f"job {job.name} left no metrics.json; its log is printed above") from error
    console.info(f"job {job.name}: {ended.get('BillableTimeInSeconds', 0):,} s are billed; results: {job.folder}")
    return metrics


def _download(s3: Any, bucket: str, key: str, path: Path) -> bool:  # noqa: ANN401 - boto3 ships no types
    """Download an object; returns False if there is none."""
    from botocore.exceptions import ClientError

    try:
        with replacing(path) as temporary:
            s3.download_file(bucket, key, str(temporary))
    except ClientError as error:
        if code_of(error) not in ("404", "NoSuchKey"):
            raise
        return False
    return True


def download_all(s3: Any, bucket: str, prefix: str, folder: Path) -> None:  # noqa: ANN401 - boto3 ships no types
    """Download the objects below a prefix, which ends with /, except the empty markers of folders.

    Raises:
        RemoteError: a key leads out of the folder; whoever may write to the bucket chooses keys.
    """
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for key in (item["Key"] for item in page.get("Contents", [])):
            path = folder / key.removeprefix(prefix)
            if key.endswith("/"):
                continue
            if not path.resolve().is_relative_to(folder.resolve()):
                raise RemoteError(
                    f"s3://{bucket}/{key} leads out of {folder}: remove the object, and find who wrote it"
                )
            _download(s3, bucket, key, path)


def _unpack(path: Path, folder: Path) -> None:
    hint = "run the same command again to fetch it once more"
    try:
        unpack_into(path, folder, hint=hint, limits=_LIMITS, wanted=lambda inside: str(inside) not in _LOCAL)
    except InputError as error:
        raise RemoteError(f"{path} cannot be unpacked: {error}") from error
    path.unlink()
