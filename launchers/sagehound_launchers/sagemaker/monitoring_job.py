"""`monitor=sagemaker`: compares captured requests with a model's baseline in a processing job."""

import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sagehound.storage.atomic import write_json
from sagehound.system import console
from sagehound_launchers.config import Launch
from sagehound_launchers.sagemaker import account, cost, job_client, requests, uploads
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import RemoteError, aws_errors, failure
from sagehound_launchers.sagemaker.job_results import download_all
from sagehound_launchers.sagemaker.secret_patterns import refuse_secrets

REQUEST = "request.json"
_KIND = "processing_job"
_ENDED = ("Completed", "Failed", "Stopped")
_LOGS = "/aws/sagemaker/ProcessingJobs"


def run(cfg: Launch, model: str, captured: str, arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run the job, and download its result into ``folder``.

    Args:
        cfg: for what is under aws, and dry_run.
        model: a run, a model.tar.gz, or s3:// of one.
        captured: s3:// of captured requests; all below it are copied to the job's disk.
        arguments: overrides of monitor=local.
        folder: of the result.

    Returns:
        the content of monitor.json; empty with dry_run.

    Raises:
        ConfigError: AWS needs a setting, or would refuse the request.
        InputError: there is no such model.
        RemoteError: the job failed.
    """
    refuse_secrets(cfg.aws.environment, "a job's environment")
    cloud = account.connect(cfg.aws, dry_run=cfg.dry_run)
    place = model if model.startswith("s3://") else uploads.model(cloud, cfg.aws.prefix, model, dry_run=cfg.dry_run)
    name = job_client.new_name("sagehound-monitor", 63)
    request = requests.monitoring_job(name, cfg, cloud.account, place, captured, arguments, uuid.uuid4().hex)
    requests.check("CreateProcessingJob", request)
    write_json(folder / REQUEST, request)
    if not cloud.emulated:
        console.info(f"cost: {cost.estimate(cfg.aws.instance_type, 1, cfg.aws.max_hours, cloud.account.region, False)}")
    if cfg.dry_run:
        console.info(f"dry_run: nothing was sent; CreateProcessingJob: {folder / REQUEST}")
        return {}
    job_client.start(cloud, _KIND, name, request)
    console.info(f"job {name} runs; aws sagemaker stop-processing-job --processing-job-name {name} stops it")
    ended = _follow(cfg, cloud, name)
    bucket, _, prefix = requests.monitoring_output(cfg, cloud.account, name).removeprefix("s3://").partition("/")
    with aws_errors(f"fetching the result of {name}, which stays in s3://{bucket}/{prefix}"):
        download_all(cloud.client("s3"), bucket, f"{prefix}/", folder)
    if ended["ProcessingJobStatus"] != "Completed":
        reason = failure(ended.get("FailureReason") or ended["ProcessingJobStatus"])
        raise RemoteError(f"job {name}: {reason}; its log is printed above")
    try:
        return dict(json.loads((folder / "monitor.json").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RemoteError(f"job {name} left no monitor.json; its log is printed above") from error


def _follow(cfg: Launch, cloud: Cloud, name: str) -> dict[str, Any]:
    """Print the log until the job ends; returns its last description."""
    log = job_client.Log(cloud, name, group=_LOGS)

    def look() -> dict[str, Any]:
        described = job_client.describe(cloud, _KIND, name)
        log.print_new()
        return described

    while True:
        described = job_client.poll_until(cloud, cfg.aws.patience_minutes, look)
        if described["ProcessingJobStatus"] in _ENDED:
            return described
        time.sleep(cloud.poll)
