"""`monitor=sagemaker`: compares captured requests with a model's baseline in a processing job."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sagehound.errors import InputError
from sagehound.storage.atomic import write_json
from sagehound.system import console
from sagehound_launchers.config import Launch
from sagehound_launchers.sagemaker import account, cost, job_client, requests, uploads
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import RemoteError, aws_errors, failure
from sagehound_launchers.sagemaker.job_client import OneJob
from sagehound_launchers.sagemaker.job_results import download_all
from sagehound_launchers.sagemaker.requests import Account, ProcessingInput, ProcessingOutput
from sagehound_launchers.sagemaker.secret_patterns import refuse_secrets

REQUEST = "request.json"
_RESULT = "monitor.json"
_LOGS = "/aws/sagemaker/ProcessingJobs"
_IN_JOB = "/opt/ml/processing"


def run(cfg: Launch, model: str, captured: str, arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run the job, and download its result into ``folder``.

    The same command with the same model and captured requests follows its job, or takes the result of the one that has
    ended.

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
        InputError: there is no such model, or nothing was captured.
        RemoteError: the job failed.
        Stopped: Ctrl-C or SIGTERM came.
    """
    refuse_secrets(cfg.aws.environment, "a job's environment")
    cloud = account.connect(cfg.aws, dry_run=cfg.dry_run)
    place = model if model.startswith("s3://") else uploads.model(cloud, cfg.aws.prefix, model, dry_run=cfg.dry_run)

    def request(name: str) -> dict[str, Any]:
        return job_request(name, cfg, cloud.account, place, captured, arguments)

    content = [] if cfg.dry_run else _content(cloud, captured)
    name = job_client.content_name("sagehound-monitor", request("name"), content)
    requests.check("CreateProcessingJob", request(name))
    write_json(folder / REQUEST, request(name))
    if not cloud.emulated:
        console.info(f"cost: {cost.estimate(cfg.aws.instance_type, 1, cfg.aws.max_hours, cloud.account.region, False)}")
    if cfg.dry_run:
        console.info(f"dry_run: nothing was sent; CreateProcessingJob: {folder / REQUEST}")
        return {}
    job = OneJob(
        "processing_job",
        name,
        request,
        prepare=lambda _: None,
        is_usable=lambda ended: job_client.has_result(cloud, ended, _RESULT),
        log=_LOGS,
    )
    return _fetch(cloud, cfg, job_client.run(cloud, cfg.aws, job), folder)


def _fetch(cloud: Cloud, cfg: Launch, ended: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Download what an ended job has written; returns the content of monitor.json."""
    name = ended["ProcessingJobName"]
    bucket, _, prefix = _output(cfg, cloud.account, name).removeprefix("s3://").partition("/")
    with aws_errors(f"fetching the result of {name}, which stays in s3://{bucket}/{prefix}"):
        download_all(cloud.client("s3"), bucket, f"{prefix}/", folder)
    if ended["ProcessingJobStatus"] != "Completed":
        reason = failure(ended.get("FailureReason") or ended["ProcessingJobStatus"])
        raise RemoteError(f"job {name}: {reason}; its log is printed above")
    try:
        return dict(json.loads((folder / _RESULT).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RemoteError(f"job {name} left no {_RESULT}; its log is printed above") from error


def _content(cloud: Cloud, captured: str) -> list[list[str]]:
    """Key and ETag of every object that the job would read."""
    bucket, _, prefix = captured.removeprefix("s3://").partition("/")
    with aws_errors(f"reading {captured}"):
        pages = cloud.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = [[item["Key"], item["ETag"]] for page in pages for item in page.get("Contents", [])]
    if not found:
        raise InputError(f"monitor.captured={captured}: no captured request lies below it")
    return found


def job_request(
    name: str, cfg: Launch, account: Account, model: str, captured: str, arguments: Sequence[str]
) -> dict[str, Any]:
    """CreateProcessingJob: the image runs `sagehound launch monitor=local` over captured requests.

    Args:
        name: at most 63 characters.
        cfg: for what is under aws.
        account: role, bucket and image.
        model: s3:// of a model.tar.gz.
        captured: s3:// of captured requests.
        arguments: more overrides, without model, monitor.captured and hydra.run.dir.
    """
    folders = {"model": f"{_IN_JOB}/model", "monitor.captured": f"{_IN_JOB}/captured"}
    inputs = [
        ProcessingInput(key.rpartition(".")[2], uri, path)
        for (key, path), uri in zip(folders.items(), (model, captured), strict=True)
    ]
    output = ProcessingOutput(_output(cfg, account, name), f"{_IN_JOB}/output", "Continuous")
    request = requests.processing_job(name, cfg.aws, account, inputs, output, "monitor")
    places = [f"{key}='{path}'" for key, path in (*folders.items(), ("hydra.run.dir", output.folder))]
    request["AppSpecification"] |= {
        "ContainerEntrypoint": ["sagehound", "launch"],
        "ContainerArguments": ["monitor=local", *arguments, *places],
    }
    return request | ({"Environment": dict(cfg.aws.environment)} if cfg.aws.environment else {})


def _output(cfg: Launch, account: Account, name: str) -> str:
    return f"s3://{account.bucket}/{cfg.aws.prefix}/monitoring/{name}"
