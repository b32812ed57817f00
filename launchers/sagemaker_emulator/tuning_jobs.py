"""Tuning jobs: what AWS accepts and answers; ``tuner.py`` runs them."""

import time
from collections.abc import Iterator

from sagehound_launchers.emulator.listing import page, pick, select
from sagehound_launchers.emulator.sampling import combinations, wrong_ranges
from sagehound_launchers.emulator.tags import Tags
from sagehound_launchers.emulator.training import check
from sagehound_launchers.emulator.tuner import KIND, Tuner, best, child_request, summaries
from sagehound_launchers.emulator.world import STOPPED, Record, Refused, World
from sagehound_launchers.sagemaker.shapes import problems

_MOST = 10_000  # training jobs of a grid; AWS has quotas below that
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
    """Create, Describe, List and Stop, and the list of a tuning job's training jobs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tuners: dict[str, Tuner] = {}

    def CreateHyperParameterTuningJob(self, request: Record) -> Record:
        """Check a request as AWS does, and search in the background."""
        name = request["HyperParameterTuningJobName"]
        arn = self._world.arn("hyper-parameter-tuning-job", name)
        if self._world.find(KIND, name):
            raise Refused("ResourceInUse", f"A hyperparameter tuning job with this name already exists ({arn})")
        for wrong in self._wrong(request):
            raise Refused("ValidationException", wrong)
        ranges = request["HyperParameterTuningJobConfig"].get("ParameterRanges", {})
        child = child_request(
            request, f"{name}-001-00000000", {r["Name"]: "0" for kind in ranges.values() for r in kind}
        )
        for wrong in problems("CreateTrainingJob", child):
            raise Refused("ValidationException", f"TrainingJobDefinition: {wrong}")
        check(self._world, child)
        now = time.time()
        self._world.service(Tags).put(arn, request.get("Tags", []))
        record = {k: v for k, v in request.items() if k != "Tags"} | {
            "HyperParameterTuningJobArn": arn,
            "HyperParameterTuningJobStatus": "InProgress",
            "CreationTime": now,
            "LastModifiedTime": now,
            "jobs": [],
        }
        self._world.save(KIND, name, record)
        tuner = self._tuners[name] = Tuner(self._world, record, self._parents(request))
        self._world.background(tuner.run)
        return {"HyperParameterTuningJobArn": arn}

    def _wrong(self, request: Record) -> Iterator[str]:
        config, definition = request["HyperParameterTuningJobConfig"], request.get("TrainingJobDefinition")
        if definition is None or request.get("Autotune"):
            yield "The emulator runs only tuning jobs with one TrainingJobDefinition and without Autotune."
            return
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
            record = self._world.find(KIND, parent["HyperParameterTuningJobName"])
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
        return [self._found(parent["HyperParameterTuningJobName"]) for parent in warm]

    def DescribeHyperParameterTuningJob(self, request: Record) -> Record:
        """All that is known of a tuning job."""
        return self._described(self._found(request["HyperParameterTuningJobName"]))

    def _described(self, record: Record) -> Record:
        jobs = summaries(self._world, record)
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
        """One page of tuning jobs, by name unless told otherwise."""
        found = select(request, self._world.all(KIND), "HyperParameterTuningJob", by="Name")
        items = [
            pick(self._described(r), *_SUMMARY)
            | {k: r["HyperParameterTuningJobConfig"][k] for k in ("Strategy", "ResourceLimits")}
            for r in found
        ]
        return page(request, "HyperParameterTuningJobSummaries", items)

    def ListTrainingJobsForHyperParameterTuningJob(self, request: Record) -> Record:
        """One page of a tuning job's training jobs; sorted by objective, those without one are left out, as at AWS."""
        jobs = summaries(self._world, self._found(request["HyperParameterTuningJobName"]))
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
        record = self._found(request["HyperParameterTuningJobName"])
        status = record["HyperParameterTuningJobStatus"]
        if status not in RUNNING:
            raise Refused(
                "ValidationException", f"The request was rejected because the hyperparameter tuning job is {status}."
            )
        self._world.change(KIND, record["HyperParameterTuningJobName"], HyperParameterTuningJobStatus="Stopping")
        self._tuners[record["HyperParameterTuningJobName"]].stop()

    def recover(self) -> None:
        """Tuning jobs that ran when the emulator ended are Failed."""
        for record in self._world.all(KIND):
            if record["HyperParameterTuningJobStatus"] in RUNNING:
                Tuner(self._world, record, []).end("Failed", STOPPED)

    def close(self) -> None:
        """Wait until the searches have ended, which ``world.stopping`` asks of them."""
        for tuner in list(self._tuners.values()):
            tuner.ended.wait(30)

    def _found(self, name: str) -> Record:
        record = self._world.find(KIND, name)
        if record is None:
            raise Refused("ResourceNotFound", f"Amazon SageMaker can't find a tuning job with the name {name}.")
        return record


def _wrong_strategy(config: Record, ranges: Record) -> Iterator[str]:
    """What does not fit the strategy."""
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
