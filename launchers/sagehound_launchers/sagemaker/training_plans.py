"""Training jobs before they start: their requests, after code, photos and weights are in S3."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sagehound.errors import ConfigError, SagehoundError
from sagehound.runs import run_folder
from sagehound.system import console
from sagehound_launchers.config import Launch
from sagehound_launchers.sagemaker import debugger_request, job_client, job_inputs, requests
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import Unreachable, failure
from sagehound_launchers.sagemaker.secret_patterns import refuse_secrets

REQUEST = "request.json"  # in a job's folder: the request that started it


@dataclass(frozen=True)
class Job:
    """One training job before it is started."""

    name: str
    cfg: Launch
    request: dict[str, Any]
    folder: Path  # of its results
    replaces: tuple[str, ...] = ()  # jobs that failed in this folder before


def prepare(cloud: Cloud, work: Sequence[tuple[Launch, Sequence[str], Path]]) -> list[Job]:
    """Upload what the jobs need, and make their requests.

    Args:
        cloud: the account.
        work: for each job its checked config, its overrides and the folder of its results.

    Raises:
        ConfigError: AWS would refuse a request.
        InputError: photos or weights are missing.
    """
    jobs, uploaded = [], {}
    for cfg, _, folder in work:
        if not (cfg.overwrite or (folder / REQUEST).exists()):
            run_folder.refuse_another_run(folder)
    if any(cfg.debugger and cfg.debugger.name == "sagemaker" for cfg, _, _ in work):
        console.warn(debugger_request.notice())
    for cfg, overrides, _ in work:  # what AWS would refuse is refused before anything is uploaded
        _request(cloud, cfg, overrides, job_inputs.placeholders(cloud, cfg))
    for cfg, overrides, folder in work:
        needed = (cfg.data.name, cfg.data.root, cfg.data.s3, cfg.backbone.weights)
        if needed not in uploaded:
            uploaded[needed] = job_inputs.channels(cloud, cfg)
        job = Job("", cfg, _request(cloud, cfg, overrides, uploaded[needed]), folder)
        if not cfg.overwrite and (folder / REQUEST).exists():
            job = _continued(cloud, job)
        jobs.append(replace(job, name=job.request["TrainingJobName"]))
    return jobs


def _request(cloud: Cloud, cfg: Launch, overrides: Sequence[str], channels: list[requests.Channel]) -> dict[str, Any]:
    hyperparameters = requests.hyperparameters([*overrides, *_results_to_keep(cfg)])
    refuse_secrets(hyperparameters, "hyperparameters")
    refuse_secrets(cfg.aws.environment, "a job's environment")
    name, token = job_client.new_name("sagehound", 63), uuid.uuid4().hex
    debugger: dict[str, Any] = {}
    if cfg.debugger and cfg.debugger.name == "sagemaker":  # else the job evaluates the rules
        debugger = debugger_request.request_parts(cfg.debugger, cloud.account.region, _output(cloud, cfg))
    if cfg.profiler and cfg.profiler.name == "sagemaker":
        debugger["ProfilerConfig"] = {
            "S3OutputPath": _output(cloud, cfg),
            "ProfilingIntervalInMilliseconds": round(1000 * cfg.profiler.interval),
        }
    request = requests.training_job(name, cfg, cloud.account, hyperparameters, channels, token, debugger)
    requests.check("CreateTrainingJob", request)
    return request


def _continued(cloud: Cloud, job: Job) -> Job:
    """The job of the folder, with the request that started it before: sent again, it starts no second job.

    If that job has failed, the new request is kept.

    Raises:
        ConfigError: the folder belongs to another job.
    """
    folder, request = job.folder, job.request
    before: dict[str, Any] = json.loads((folder / REQUEST).read_text())
    for key in ("HyperParameters", "AlgorithmSpecification", "ResourceConfig"):
        if before.get(key) != request[key]:
            raise ConfigError(
                f"{folder} is of a job with other {key}: replace it with overwrite=true, or give another hydra.run.dir "
                "or hydra.sweep.dir"
            )
    name = before["TrainingJobName"]
    status, reason = _status(cloud, name)
    if status != "Failed":
        console.info(f"following the job {name} again")
        return replace(job, request=before)
    console.info(f"job {name} of {folder}: {status}{': ' * bool(reason)}{reason}; another one is started")
    description = folder / "job.json"
    earlier = json.loads(description.read_text()).get("replaces", []) if description.exists() else []
    return replace(job, replaces=(*earlier, name))


def _status(cloud: Cloud, name: str) -> tuple[str, str]:
    """Status and FailureReason of a job; empty if it was never started."""
    try:
        described = job_client.describe(cloud, "training_job", name)
    except Unreachable:
        raise
    except SagehoundError:
        return "", ""
    return described["TrainingJobStatus"], failure(described.get("FailureReason", ""))


def _results_to_keep(cfg: Launch) -> list[str]:
    """Which results a job keeps. A spot job of a sweep keeps a checkpoint, from which it resumes."""
    if cfg.results == "scores" and cfg.aws.spot:
        return ["results=all", "artifact=false"]
    return [f"results={cfg.results}"]


def _output(cloud: Cloud, cfg: Launch) -> str:
    """Where AWS writes tensors and samples, below the name of the job."""
    return f"s3://{cloud.account.bucket}/{cfg.aws.prefix}/jobs"
