"""Training jobs before they start: their requests, after code, photos and weights are in S3."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagehound.config import Debugger
from sagehound.errors import ConfigError
from sagehound.runs import run_folder
from sagehound.system import console
from sagehound_launchers.config import Launch
from sagehound_launchers.sagemaker import job_client, job_inputs, requests
from sagehound_launchers.sagemaker.account import Cloud

REQUEST = "request.json"  # in a job's folder: the request that started it


@dataclass(frozen=True)
class Job:
    """One training job before it is started."""

    name: str
    cfg: Launch
    request: dict[str, Any]
    folder: Path  # of its results


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
    for cfg, overrides, folder in work:
        needed = (cfg.data.name, cfg.data.root, cfg.data.s3, cfg.backbone.weights)
        if needed not in uploaded:
            uploaded[needed] = job_inputs.channels(cloud, cfg)
        hyperparameters = requests.hyperparameters([*overrides, *_results_to_keep(cfg)])
        name, token = job_client.new_name("sagehound", 63), uuid.uuid4().hex
        is_managed = cfg.debugger is not None and cfg.debugger.name == "sagemaker"  # else the job evaluates the rules
        debugger = _debugger(cloud, cfg, cfg.debugger) if cfg.debugger and is_managed else {}
        if cfg.profiler and cfg.profiler.name == "sagemaker":
            debugger["ProfilerConfig"] = {
                "S3OutputPath": _output(cloud, cfg),
                "ProfilingIntervalInMilliseconds": round(1000 * cfg.profiler.interval),
            }
        request = requests.training_job(name, cfg, cloud.account, hyperparameters, uploaded[needed], token, debugger)
        requests.check("CreateTrainingJob", request)
        request = (None if cfg.overwrite else _previous_request(folder, request)) or request
        jobs.append(Job(request["TrainingJobName"], cfg, request, folder))
    return jobs


def _previous_request(folder: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """The request that started the same job in this folder before, if any. Sent again, it starts no second job.

    Raises:
        ConfigError: the folder belongs to another job.
    """
    path = folder / REQUEST
    if not path.exists():
        return None
    before: dict[str, Any] = json.loads(path.read_text())
    for key in ("HyperParameters", "AlgorithmSpecification", "ResourceConfig"):
        if before.get(key) != request[key]:
            raise ConfigError(
                f"{folder} is of a job with other {key}: replace it with overwrite=true, or give another hydra.run.dir "
                "or hydra.sweep.dir"
            )
    console.info(f"following the job {before['TrainingJobName']} again")
    return before


def _results_to_keep(cfg: Launch) -> list[str]:
    """Which results a job keeps. A spot job of a sweep keeps a checkpoint, from which it resumes."""
    if cfg.results == "scores" and cfg.aws.spot:
        return ["results=all", "artifact=false"]
    return [f"results={cfg.results}"]


def _debugger(cloud: Cloud, cfg: Launch, debugger: Debugger) -> dict[str, Any]:
    from sagehound_launchers.sagemaker.debugger_request import notice, request_parts

    console.warn(notice())
    return request_parts(debugger, cloud.account.region, _output(cloud, cfg))


def _output(cloud: Cloud, cfg: Launch) -> str:
    """Where AWS writes tensors and samples, below the name of the job."""
    return f"s3://{cloud.account.bucket}/{cfg.aws.prefix}/jobs"
