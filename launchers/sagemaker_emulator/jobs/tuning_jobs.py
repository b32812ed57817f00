"""Operations of tuning jobs. ``tuning_run.py`` runs them."""

import time
from collections.abc import Iterator

from sagemaker_emulator.errors import STOPPED, ApiError
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.jobs.sampling import combinations, wrong_ranges
from sagemaker_emulator.jobs.training_jobs import TrainingJobs
from sagemaker_emulator.jobs.tuning_run import (
    KIND,
    TuningRun,
    best,
    child_request,
    one_for_each_definition,
    resource_config,
    summaries,
)
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.request_validation import problems
from sagemaker_emulator.storage.listing import page, pick, select
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.tags import Tags

_MOST = 10_000  # training jobs of a grid; AWS's quotas are lower
RUNNING = ("InProgress", "Stopping")
_SUMMARY = (
    "HyperParameterTuningJobName",
    "HyperParameterTuningJobArn",
    "HyperParameterTuningJobStatus",
    "CreationTime",
    "HyperParameterTuningEndTime",
    "LastModifiedTime",
    "TrainingJobStatusCounters",
    "ObjectiveStatusCounters",
)


class TuningJobs:
    """Create, Describe, List, Stop and Delete, and the list of a tuning job's training jobs."""

    def __init__(
        self, records: Records, identity: Identity, tags: Tags, tasks: Tasks, training_jobs: TrainingJobs
    ) -> None:
        self._records, self._identity, self._tags, self._tasks, self._training_jobs = (
            records,
            identity,
            tags,
            tasks,
            training_jobs,
        )
        self._tuners: dict[str, TuningRun] = {}

    def CreateHyperParameterTuningJob(self, request: Record) -> Record:
        """Validate a request as AWS does, and search in the background."""
        name = request["HyperParameterTuningJobName"]
        arn = self._identity.arn("hyper-parameter-tuning-job", name)
        if self._records.find(KIND, name):
            raise ApiError("ResourceInUse", f"A hyperparameter tuning job with this name already exists ({arn})")
        for wrong in _wrong_definitions(request):
            raise ApiError("ValidationException", wrong)
        searches = one_for_each_definition(request)
        for search in searches:
            self._check(search)
        now = time.time()
        self._tags.put(arn, request.get("Tags", []))
        definitions = [_described_definition(search) for search in searches]
        many = "TrainingJobDefinition" not in request
        record = {k: v for k, v in request.items() if k != "Tags"} | {
            **({"TrainingJobDefinitions": definitions} if many else {"TrainingJobDefinition": definitions[0]}),
            "HyperParameterTuningJobArn": arn,
            "HyperParameterTuningJobStatus": "InProgress",
            "CreationTime": now,
            "LastModifiedTime": now,
            "jobs": [],
        }
        self._records.save(KIND, name, record)
        tuner = self._tuners[name] = self._make_run(record, self._parents(request))
        self._tasks.background(tuner.run)
        return {"HyperParameterTuningJobArn": arn}

    def _check(self, request: Record) -> None:
        """Check a tuning job with one definition, and the training jobs that it would start."""
        for wrong in self._wrong(request):
            raise ApiError("ValidationException", wrong)
        ranges = request["HyperParameterTuningJobConfig"].get("ParameterRanges", {})
        name = f"{request['HyperParameterTuningJobName']}-001-00000000"
        child = child_request(request, name, {r["Name"]: "0" for kind in ranges.values() for r in kind})
        for wrong in problems("CreateTrainingJob", child):
            raise ApiError("ValidationException", f"TrainingJobDefinition: {wrong}")
        self._training_jobs.check(child)

    def _wrong(self, request: Record) -> Iterator[str]:
        config, definition = request["HyperParameterTuningJobConfig"], request["TrainingJobDefinition"]
        objective = config.get("HyperParameterTuningJobObjective")
        metrics = [m["Name"] for m in definition["AlgorithmSpecification"].get("MetricDefinitions", [])]
        if objective is None or objective["MetricName"] not in metrics:
            named = objective and objective["MetricName"]
            yield f"Objective metric {named} must be among the MetricDefinitions of the algorithm: {metrics}"
        ranges = config.get("ParameterRanges", {})
        names = [r["Name"] for kind in ranges.values() for r in kind]
        if not names:
            yield "ParameterRanges must hold at least one range"
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            yield f"Hyperparameters must be unique across the parameter ranges: {twice}"
        both = sorted(set(names) & set(definition.get("StaticHyperParameters", {})))
        if both:
            yield f"Static hyperparameters and tuned hyperparameters must not overlap: {both}"
        yield from wrong_ranges(ranges)
        yield from _wrong_strategy(config, ranges)
        yield from self._wrong_parents(request)

    def _wrong_parents(self, request: Record) -> Iterator[str]:
        warm = request.get("WarmStartConfig", {})
        for parent in warm.get("ParentHyperParameterTuningJobs", []):
            if "HyperParameterTuningJobName" not in parent:
                yield "WarmStartConfig.ParentHyperParameterTuningJobs: each needs a HyperParameterTuningJobName"
                continue
            record = self._records.find(KIND, parent["HyperParameterTuningJobName"])
            if record is None:
                yield f"Parent tuning job {parent['HyperParameterTuningJobName']} does not exist"
            elif record["HyperParameterTuningJobStatus"] in RUNNING:
                yield f"Parent tuning job {parent['HyperParameterTuningJobName']} has not ended"
            elif warm["WarmStartType"] == "IdenticalDataAndAlgorithm":
                for member in ("AlgorithmSpecification", "InputDataConfig"):
                    if record["TrainingJobDefinition"].get(member) != request["TrainingJobDefinition"].get(member):
                        yield f"WarmStartType IdenticalDataAndAlgorithm: {member} differs from the parent's"

    def _parents(self, request: Record) -> list[Record]:
        warm = request.get("WarmStartConfig", {}).get("ParentHyperParameterTuningJobs", [])
        return [self._record(parent["HyperParameterTuningJobName"]) for parent in warm]

    def DescribeHyperParameterTuningJob(self, request: Record) -> Record:
        """The description of a tuning job."""
        return self._described(self._record(request["HyperParameterTuningJobName"]))

    def _described(self, record: Record) -> Record:
        jobs = summaries(self._records, record)
        states = [job["TrainingJobStatus"] for job in jobs]
        objectives = [job["ObjectiveStatus"] for job in jobs]
        seconds = [max(job.get("TrainingEndTime", 0) - job.get("TrainingStartTime", 0), 0) for job in jobs]
        winner = best(record, jobs)
        return (
            record
            | {
                "TrainingJobStatusCounters": {
                    "Completed": states.count("Completed"),
                    "InProgress": sum(state in RUNNING for state in states),
                    "RetryableError": 0,
                    "NonRetryableError": states.count("Failed"),
                    "Stopped": states.count("Stopped"),
                },
                "ObjectiveStatusCounters": {s: objectives.count(s) for s in ("Succeeded", "Pending", "Failed")},
                "ConsumedResources": {"RuntimeInSeconds": round(sum(seconds))},
            }
            | ({"BestTrainingJob": winner} if winner else {})
        )

    def ListHyperParameterTuningJobs(self, request: Record) -> Record:
        """One page of tuning jobs, by default sorted by name."""
        jobs = select(request, self._records.all(KIND), "HyperParameterTuningJob", by="Name")
        items = [
            pick(self._described(r), *_SUMMARY)
            | {k: r["HyperParameterTuningJobConfig"][k] for k in ("Strategy", "ResourceLimits")}
            for r in jobs
        ]
        return page(request, "HyperParameterTuningJobSummaries", items)

    def ListTrainingJobsForHyperParameterTuningJob(self, request: Record) -> Record:
        """One page of a tuning job's training jobs. Sorted by objective, jobs without one are left out, as at AWS."""
        jobs = summaries(self._records, self._record(request["HyperParameterTuningJobName"]))
        jobs = [j for j in jobs if request.get("StatusEquals") in (None, j["TrainingJobStatus"])]
        objective = "FinalHyperParameterTuningJobObjectiveMetric"
        by = request.get("SortBy", "Name")
        if by == "FinalObjectiveMetricValue":
            jobs = sorted((j for j in jobs if objective in j), key=lambda j: float(j[objective]["Value"]))
        else:
            member = str({"Name": "TrainingJobName", "Status": "TrainingJobStatus"}.get(by, by))
            jobs = sorted(jobs, key=lambda j: j[member])
        if request.get("SortOrder") == "Descending":
            jobs.reverse()
        return page(request, "TrainingJobSummaries", jobs)

    def StopHyperParameterTuningJob(self, request: Record) -> None:
        """Stop it and its training jobs."""
        record = self._record(request["HyperParameterTuningJobName"])
        status = record["HyperParameterTuningJobStatus"]
        if status not in RUNNING:
            raise ApiError(
                "ValidationException", f"The request was rejected because the hyperparameter tuning job is {status}."
            )
        self._records.change(KIND, record["HyperParameterTuningJobName"], HyperParameterTuningJobStatus="Stopping")
        self._tuners[record["HyperParameterTuningJobName"]].stop()

    def DeleteHyperParameterTuningJob(self, request: Record) -> None:
        """Delete a tuning job that has ended; its training jobs remain."""
        record = self._record(request["HyperParameterTuningJobName"])
        if record["HyperParameterTuningJobStatus"] in RUNNING:
            raise ApiError("ResourceInUse", "The tuning job is still running; stop it before deleting it.")
        self._records.remove(KIND, record["HyperParameterTuningJobName"])

    def recover(self) -> None:
        """Mark tuning jobs that ran when the emulator ended as Failed."""
        for record in self._records.all(KIND):
            if record["HyperParameterTuningJobStatus"] in RUNNING:
                self._make_run(record, []).end("Failed", STOPPED)

    def close(self) -> None:
        """Wait until the searches have ended; ``tasks.stopping`` is set."""
        for tuner in list(self._tuners.values()):
            tuner.ended.wait(30)

    def _make_run(self, record: Record, parents: list[Record]) -> TuningRun:
        return TuningRun(self._records, self._tasks, self._training_jobs, record, parents)

    def _record(self, name: str) -> Record:
        record = self._records.find(KIND, name)
        if record is None:
            raise ApiError("ResourceNotFound", f"Amazon SageMaker can't find a tuning job with the name {name}.")
        return record


def _wrong_definitions(request: Record) -> Iterator[str]:
    """Rules of TrainingJobDefinition and TrainingJobDefinitions; AWS's wording is not known."""
    if request.get("Autotune"):
        yield "The emulator runs tuning jobs without Autotune."
    many = request.get("TrainingJobDefinitions")
    if ("TrainingJobDefinition" in request) == bool(many):
        yield "One of TrainingJobDefinition and TrainingJobDefinitions must be given, and not both."
    if not many:
        return
    config, names = request["HyperParameterTuningJobConfig"], [d.get("DefinitionName") for d in many]
    if None in names or len(set(names)) < len(names):
        yield "Each of the TrainingJobDefinitions needs a DefinitionName of its own."
    if "ParameterRanges" in config or "HyperParameterTuningJobObjective" in config:
        yield "With TrainingJobDefinitions, give HyperParameterRanges and TuningObjective in each of them."
    if len({d.get("TuningObjective", {}).get("Type") for d in many}) > 1:
        yield "The emulator compares definitions only if all maximize or all minimize their objective."
    if config["Strategy"] == "Grid" or "WarmStartConfig" in request:
        yield "The emulator has neither the strategy Grid nor WarmStartConfig with several definitions."


def _described_definition(search: Record) -> Record:
    """A definition as AWS describes it, which HyperparameterTuner.attach of SDK 2 relies on."""
    definition: Record = search["TrainingJobDefinition"]
    objective = search["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["MetricName"]
    static = definition.get("StaticHyperParameters", {}) | {"_tuning_objective_metric": objective}
    return definition | resource_config(definition) | {"StaticHyperParameters": static}


def _wrong_strategy(config: Record, ranges: Record) -> Iterator[str]:
    """Members that contradict the strategy."""
    strategy, limits = config["Strategy"], config["ResourceLimits"]
    most = limits.get("MaxNumberOfTrainingJobs")
    if strategy == "Grid":
        if ranges.get("IntegerParameterRanges") or ranges.get("ContinuousParameterRanges"):
            yield "Grid search takes only CategoricalParameterRanges"
        elif most not in (None, combinations(ranges)):
            yield (
                f"MaxNumberOfTrainingJobs must be equal to the number of combinations of the categorical values, "
                f"{combinations(ranges)}, or left out for strategy Grid"
            )
        elif combinations(ranges) > _MOST:
            yield f"The grid has {combinations(ranges)} points, and the emulator runs at most {_MOST}"
    elif most is None:
        yield f"MaxNumberOfTrainingJobs is required for strategy {strategy}"
    if most is not None and limits["MaxParallelTrainingJobs"] > most:
        yield "MaxParallelTrainingJobs must be less than or equal to MaxNumberOfTrainingJobs"
    hyperband = config.get("StrategyConfig", {}).get("HyperbandStrategyConfig")
    if strategy != "Hyperband":
        if hyperband:
            yield "HyperbandStrategyConfig is for strategy Hyperband only"
        return
    if config.get("TrainingJobEarlyStoppingType", "Off") != "Off":
        yield "TrainingJobEarlyStoppingType must be Off for strategy Hyperband, which stops jobs itself"
    if not hyperband or not 1 <= hyperband.get("MinResource", 0) <= hyperband.get("MaxResource", 0):
        yield "Strategy Hyperband needs HyperbandStrategyConfig with 1 <= MinResource <= MaxResource"
