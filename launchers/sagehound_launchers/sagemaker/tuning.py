"""`hpo=sagemaker`: runs one tuning job, follows it, and writes the results of a search."""

import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.live import Live
from rich.table import Table

from sagehound.cli.hyperparameters import values
from sagehound.errors import ConfigError, SagehoundError, Stopped
from sagehound.storage.atomic import locked, write_json
from sagehound.system import console
from sagehound_launchers.config import Aws, Hpo, Launch
from sagehound_launchers.sagemaker import account, job_client, job_inputs, requests
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import RemoteError, Unreachable, aws_errors, failure
from sagehound_launchers.sagemaker.secret_patterns import refuse_secrets
from sagehound_launchers.sagemaker.training import print_cost
from sagehound_launchers.search import results
from sagehound_launchers.search.resolve_space import Compose, find_space, study_override
from sagehound_launchers.search.runners import stop_signal, terminable
from sagehound_launchers.search.space import Choice, Interval, SearchSpace
from sagehound_launchers.search.trial import Trial

_KIND = "hyper_parameter_tuning_job"
_ENDED = ("Completed", "Failed", "Stopped")
_STATES = {"Completed": "complete", "Stopped": "stopped", "Failed": "failed"}


def tune(arguments: Sequence[str], hpo: Hpo, folder: Path, compose: Compose) -> list[Trial]:
    """Start a tuning job, or follow the one that was started for the same folder, until it ends.

    Args:
        arguments: overrides; sweeps are searched, and replace those of hpo.space with the same key.
        hpo: strategy, max_jobs, max_parallel_jobs, objective, direction, ...
        folder: of the search; gets tuning_job.json, trials.csv, best.yaml and plots.
        compose: a trial's overrides to its config; raises ConfigError.

    Raises:
        ConfigError: nothing is searched, a trial would break a rule, or AWS would refuse the job. Nothing was started.
        RemoteError: the job failed.
        Stopped: a signal came. The job continues, or with aws.stop_on_interrupt is stopped.
    """
    space, base = find_space(arguments, hpo, compose)
    cfg = compose([*base, *space.middle()])
    with locked(folder / ".lock", busy=f"another process is tuning in {folder}: give hpo.study=ANOTHER"):
        cloud = account.connect(cfg.aws, dry_run=cfg.dry_run)
        note = folder / "tuning_job.json"
        request = _request(cloud, cfg, space)
        request = _previous_request(cloud, note, request) or request if note.exists() else request
        name = request["HyperParameterTuningJobName"]
        if cfg.dry_run:
            write_json(folder / "request.json", request)
            console.info(f"dry_run: nothing was sent; CreateHyperParameterTuningJob: {folder / 'request.json'}")
            return []
        print_cost(cloud, cfg.aws, _most(space, hpo))
        write_json(note, request)
        ended, trials = _run(cloud, cfg, request, space, note)
        results.write(folder, trials, space, maximize=hpo.direction == "maximize", objective=hpo.objective)
    if ended["HyperParameterTuningJobStatus"] == "Failed":
        raise RemoteError(f"tuning job {name}: {ended['FailureReason']}")
    return trials


def _most(space: SearchSpace, hpo: Hpo) -> int:
    """The number of training jobs; a grid has one per point."""
    if hpo.strategy != "Grid":
        return int(hpo.max_jobs)
    return math.prod(len(values.values) for values in space.ranges.values() if isinstance(values, Choice))


def _request(cloud: Cloud, cfg: Launch, space: SearchSpace) -> dict[str, Any]:
    fixed = requests.hyperparameters(space.fixed)
    given = {key: value for key, value in fixed.items() if key.lstrip("+") not in space.ranges}  # a sweep replaces it
    if cfg.aws.spot:  # keep a checkpoint, unlike results=scores
        given |= {"results": "all", "artifact": "false"}
    else:
        given.setdefault("results", "scores")
    refuse_secrets(given, "hyperparameters")
    refuse_secrets(cfg.aws.environment, "a job's environment")
    for parent in cfg.search.warm_start:
        try:
            job_client.describe(cloud, _KIND, parent)
        except Unreachable:
            raise
        except SagehoundError as error:
            raise ConfigError(f"hpo.warm_start={parent}: there is no such tuning job in {cloud.region}") from error
    name, token = job_client.new_name("sagehound", 32), uuid.uuid4().hex
    for inputs in (job_inputs.placeholders, job_inputs.channels):  # checked before anything is uploaded
        request = requests.tuning_job(name, cfg, cloud.account, space, given, inputs(cloud, cfg), token)
        requests.check("CreateHyperParameterTuningJob", request)
    return request


def _previous_request(cloud: Cloud, note: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """The request that started this folder's search. Sent again, it starts no second job. None if its job failed.

    Raises:
        ConfigError: the folder belongs to another search.
    """
    before: dict[str, Any] = json.loads(note.read_text())
    name = before["HyperParameterTuningJobName"]
    for what, of in (("settings", "HyperParameterTuningJobConfig"), ("trials", "TrainingJobDefinition")):
        old, new = ({k: v for k, v in r[of].items() if k not in _EACH} for r in (before, request))
        if old != new:
            differ = ", ".join(k for k in {**old, **new} if old.get(k) != new.get(k))
            raise ConfigError(
                f"{note.parent} was searched by the tuning job {name} with other {what} ({differ}): give "
                f"hpo.study=ANOTHER; hpo.warm_start=[{name}] lets it learn from this one"
            )
    try:
        status = job_client.describe(cloud, _KIND, name)["HyperParameterTuningJobStatus"]
    except Unreachable:
        raise
    except SagehoundError:
        return before  # it was not started, or the response was lost
    if status == "Failed":
        console.warn(f"the tuning job {name} failed; another is begun")
        return None
    console.info(f"following the tuning job {name} again")
    return before


_EACH = {"InputDataConfig", "Environment", "CheckpointConfig"}  # members that differ between starts


def _run(
    cloud: Cloud, cfg: Launch, request: dict[str, Any], space: SearchSpace, note: Path
) -> tuple[dict[str, Any], list[Trial]]:
    """Start the job unless it runs already, and wait for its end."""
    name = request["HyperParameterTuningJobName"]
    again = job_client.resume_hint(cloud, f"{study_override(note.parent)} follows it again")
    resume_hint = f"the tuning job {name} goes on; {again}"
    with terminable():
        try:
            job_client.start(cloud, _KIND, name, request)
        except SagehoundError as error:
            if not isinstance(error, Unreachable | Stopped):
                note.unlink()  # it was refused; a new one may be started
            raise
        try:
            return _follow(cloud, cfg, name, space)
        except (KeyboardInterrupt, Stopped) as error:
            signum = stop_signal(error)
            if cfg.aws.stop_on_interrupt:
                job_client.stop(cloud, _KIND, name)
                resume_hint = f"the tuning job {name} is being stopped"
            raise Stopped(f"stopped by {signum.name}; {resume_hint}", signum) from error
        except SagehoundError as error:
            raise type(error)(f"{error}; {resume_hint}") from error


def _follow(cloud: Cloud, cfg: Launch, name: str, space: SearchSpace) -> tuple[dict[str, Any], list[Trial]]:
    """Wait for the job's end; shows a table on a terminal, else a line per trial."""
    reported: set[int] = set()
    console.info(f"tuning job {name}: {cfg.search.strategy}, {cfg.search.max_parallel_jobs} at a time")
    with Live(console=console.terminal(), transient=True, auto_refresh=False) as live:
        while True:
            described, summaries = job_client.poll_until(
                cloud,
                cfg.aws.patience_minutes,
                lambda: (job_client.describe(cloud, _KIND, name), _summaries(cloud, name)),
            )
            trials = [_trial(number, summary, space) for number, summary in enumerate(summaries)]
            for trial in trials:
                if trial.state in _STATES.values() and trial.number not in reported:
                    reported.add(trial.number)
                    reason = failure(summaries[trial.number].get("FailureReason", ""))
                    console.info(_line(trial, cfg.search.objective) + f": {reason}" * bool(reason))
            if console.terminal().is_terminal:
                live.update(_table(name, trials, space, cfg.search.objective), refresh=True)
            if described["HyperParameterTuningJobStatus"] in _ENDED:
                return described | {"FailureReason": _reason(described, summaries)}, trials
            time.sleep(cloud.poll)


def _summaries(cloud: Cloud, name: str) -> list[dict[str, Any]]:
    """AWS's summaries of the job's trials so far, in the order of their start."""
    pages = cloud.client("sagemaker").get_paginator("list_training_jobs_for_hyper_parameter_tuning_job")
    with aws_errors(f"reading the trials of {name}"):
        pages_of_jobs = pages.paginate(
            HyperParameterTuningJobName=name, SortBy="CreationTime", SortOrder="Ascending", MaxResults=100
        )
        return [s for page in pages_of_jobs for s in page["TrainingJobSummaries"]]


def _trial(number: int, summary: dict[str, Any], space: SearchSpace) -> Trial:
    objective = summary.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value")
    start, end = summary.get("TrainingStartTime"), summary.get("TrainingEndTime")
    seconds = round((end - start).total_seconds(), 3) if start and end else None
    state = _STATES.get(summary["TrainingJobStatus"], "running")
    if state == "complete" and objective is None:
        state = "failed"
    return Trial(
        number, state, objective, seconds, point(summary["TunedHyperParameters"], space), summary["TrainingJobName"]
    )


def point(tuned: dict[str, str], space: SearchSpace) -> dict[str, str | float]:
    """A trial's hyperparameters, which are strings on SageMaker, as values of overrides."""
    typed: dict[str, str | float] = {}
    for key, value in values(tuned).items():
        r = space.ranges.get(key)
        number = isinstance(r, Interval)
        typed[key] = (int(float(value)) if r.integer else float(value)) if number and isinstance(r, Interval) else value
    return typed


def _line(trial: Trial, objective: str) -> str:
    objective_text = f"{objective} {trial.objective:.4f}" if trial.objective is not None else "no objective"
    return f"trial {trial.number}: {trial.state}, {objective_text}: " + " ".join(
        f"{k}={v}" for k, v in trial.point.items()
    )


def _table(name: str, trials: list[Trial], space: SearchSpace, objective: str) -> Table:
    table = Table("trial", "state", objective, *space.ranges, title=name, title_justify="left")
    for t in trials:
        value = "" if t.objective is None else f"{t.objective:.4f}"
        table.add_row(str(t.number), t.state, value, *(str(t.point.get(key, "")) for key in space.ranges))
    return table


def _reason(described: dict[str, Any], summaries: list[dict[str, Any]]) -> str:
    """Why a tuning job has failed: the reasons of its trials, then AWS's own."""
    reasons = [failure(s["FailureReason"]) for s in summaries if s.get("FailureReason")]
    own = failure(described.get("FailureReason") or "no trial gave an objective")
    return "; ".join(dict.fromkeys([*reasons, own]))


def best_of(name: str, given: Mapping[str, str]) -> dict[str, str]:
    """The overrides of a tuning job's best training job.

    If the search has a folder below multirun, it is read there, with the photos and weights of its command. Otherwise
    AWS is queried with the command's ``aws`` keys.

    Args:
        name: of the tuning job.
        given: the command's overrides by key.

    Raises:
        ConfigError: there is no such job, or no AWS account.
    """
    for note in Path("multirun").glob("**/tuning_job.json"):
        best = note.with_name("best.yaml")
        if best.exists() and json.loads(note.read_text())["HyperParameterTuningJobName"] == name:
            content = OmegaConf.to_container(OmegaConf.load(best), resolve=False)
            return {str(k): str(v) for k, v in dict(content).items()}  # type: ignore[arg-type]
    aws = Aws(given.get("aws", "account"), profile=given.get("aws.profile"), region=given.get("aws.region"))
    aws.folder = given.get("aws.folder", aws.folder)
    try:
        with aws_errors(f"best={name}: no such folder; looking for a tuning job"):
            sagemaker = account.open_session(aws).client("sagemaker")
            content = sagemaker.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    except SagehoundError as error:
        raise ConfigError(str(error)) from error
    if "BestTrainingJob" not in content:
        raise ConfigError(f"best={name}: the tuning job has no best training job yet")
    fixed = content["TrainingJobDefinition"].get("StaticHyperParameters", {})
    tuned = content["BestTrainingJob"]["TunedHyperParameters"]
    drop = {"results", "artifact"}  # keys that trials set
    return {k: v for k, v in values({**fixed, **tuned}).items() if k not in drop}
