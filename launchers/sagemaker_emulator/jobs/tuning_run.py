"""Runs one tuning job: proposes points, runs them as training jobs, and stops bad ones early."""

import threading
import time
import uuid
from collections.abc import Sequence

from sagemaker_emulator.errors import STOPPED, ApiError
from sagemaker_emulator.jobs.early_stopping import out_of_the_third, worse_than_median
from sagemaker_emulator.jobs.sampling import Point, Sampler, grid
from sagemaker_emulator.jobs.training_jobs import KIND as TRAINING
from sagemaker_emulator.jobs.training_jobs import TrainingJobs
from sagemaker_emulator.jobs.training_run import TrainingRun
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.transfers import join_uri

KIND = "tuning-job"
_POLL = 0.05  # seconds between two polls of the training jobs
_GIVE_UP_AFTER = 5  # AWS gives up after this many training jobs without an objective
_RESOURCES = ("InstanceType", "InstanceCount", "VolumeSizeInGB", "VolumeKmsKeyId")
_CHILD = (
    "RoleArn",
    "InputDataConfig",
    "VpcConfig",
    "OutputDataConfig",
    "ResourceConfig",
    "StoppingCondition",
    "EnableNetworkIsolation",
    "EnableInterContainerTrafficEncryption",
    "EnableManagedSpotTraining",
    "RetryStrategy",
    "Environment",
    "AlgorithmSpecification",
)


class TuningRun:
    """One search; ``run`` is called in a thread."""

    def __init__(
        self, records: Records, tasks: Tasks, training_jobs: TrainingJobs, record: Record, parents: Sequence[Record]
    ) -> None:
        self._records, self._tasks, self._training_jobs, self._record = records, tasks, training_jobs, record
        self.ended = threading.Event()
        self._stop_requested = threading.Event()
        self._runs: dict[str, TrainingRun] = {}
        self._series: dict[str, list[float]] = {}  # objectives by training job; lower is better
        config = record["HyperParameterTuningJobConfig"]
        self._config, self._limits = config, config["ResourceLimits"]
        searches = one_for_each_definition(record)
        self._sign = _sign(searches[0])
        guided, ranges = config["Strategy"] == "Bayesian", [_ranges(search) for search in searches]
        self._samplers = [Sampler(r, config.get("RandomSeed"), guided=guided) for r in ranges]
        self._grid = grid(ranges[0]) if config["Strategy"] == "Grid" else None
        self._most = len(self._grid) if self._grid is not None else self._limits["MaxNumberOfTrainingJobs"]
        self._seeds = [point for parent in parents for point in _points(records, parent)]

    def stop(self) -> None:
        """Stop it and its training jobs."""
        self._stop_requested.set()

    def run(self) -> None:
        """Search to the end."""
        try:
            try:
                status, reason = self._search()
            finally:
                for run in self._runs.values():
                    run.stop()
                for run in self._runs.values():
                    run.ended.wait()
            self.end(status, reason)
        except Exception as error:
            self.end("Failed", f"InternalServerError: {error!r}")
            raise
        finally:
            self.ended.set()

    def end(self, status: str, reason: str = "") -> None:
        """Record its end."""
        now = time.time()
        times = {"HyperParameterTuningEndTime": now, "LastModifiedTime": now}
        failure = {"FailureReason": reason[:1024]} if reason else {}
        name = self._record["HyperParameterTuningJobName"]
        self._records.change(KIND, name, HyperParameterTuningJobStatus=status, **times, **failure)

    def _search(self) -> tuple[str, str]:
        """Start jobs until the end; returns the status and, if Failed, the reason."""
        began = time.monotonic()
        while True:
            running = sum(not run.ended.is_set() for run in self._runs.values())
            if self._tasks.stopping.is_set():
                return "Failed", STOPPED
            if self._stop_requested.is_set():
                return "Stopped", ""
            if time.monotonic() - began > self._limits.get("MaxRuntimeInSeconds", float("inf")):
                return "Stopped", ""
            ended = [name for name, run in self._runs.items() if run.ended.is_set()]
            searches = one_for_each_definition(self._record)
            values = [value for search in searches for _, value in _points(self._records, search)]
            if len(ended) >= min(_GIVE_UP_AFTER, self._most) and not values:
                return "Failed", (
                    f"No training job succeeded after {len(ended)} attempts. For additional details, please take a "
                    "look at the training job failures by listing training jobs for the hyperparameter tuning job."
                )
            if self._good_enough(values) or (len(self._runs) == self._most and not running):
                return "Completed", ""
            if len(self._runs) < self._most and running < self._limits["MaxParallelTrainingJobs"]:
                try:
                    self._start(len(self._runs))
                except ApiError as refused:
                    return "Failed", f"{refused.code}: {refused.message}"
            else:
                time.sleep(_POLL)

    def _start(self, number: int) -> None:
        """Start the next training job. Definitions take turns; how AWS divides jobs among them is not documented."""
        index = number % len(self._samplers)
        search = one_for_each_definition(self._record)[index]
        known = self._seeds + _points(self._records, search)
        point = self._grid[number] if self._grid is not None else self._samplers[index].propose(known)
        objective = search["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["MetricName"]
        tuning = self._record["HyperParameterTuningJobName"]
        name = f"{tuning}-{number + 1:03}-{uuid.uuid4().hex[:8]}"
        self._series[name] = []

        def on_metric(metric: str, value: float) -> None:
            if metric == objective:
                self._record_objective(name, self._sign * value)

        more = {"TuningJobArn": self._record["HyperParameterTuningJobArn"]}
        with self._records.lock:  # on_metric must wait until the run is stored
            run = self._training_jobs.start(child_request(search, name, point), more, on_metric)
            self._runs[name] = run
            job = {"name": name, "tuned": point, "definition": search["TrainingJobDefinition"].get("DefinitionName")}
            self._records.change(KIND, tuning, jobs=[*self._record["jobs"], job])

    def _record_objective(self, name: str, value: float) -> None:
        """Record a new objective of a job, and stop the job if it is bad."""
        with self._records.lock:
            self._series[name].append(value)
            if self._config["Strategy"] == "Hyperband":
                limits = self._config["StrategyConfig"]["HyperbandStrategyConfig"]
                out = out_of_the_third(name, self._series, limits["MinResource"], limits["MaxResource"])
            elif self._config.get("TrainingJobEarlyStoppingType") == "Auto":
                earlier = [s for n, s in self._series.items() if n in self._runs and self._runs[n].ended.is_set()]
                out = worse_than_median(self._series[name], earlier)
            else:
                out = False
            if out and name in self._runs:
                self._runs[name].stop()

    def _good_enough(self, values: list[float]) -> bool:
        """Whether a TuningJobCompletionCriteria is met; lower is better."""
        criteria = self._config.get("TuningJobCompletionCriteria", {})
        target = criteria.get("TargetObjectiveMetricValue")
        if target is not None and values and min(values) <= self._sign * target:
            return True
        patience = criteria.get("BestObjectiveNotImproving", {}).get("MaxNumberOfTrainingJobsNotImproving")
        return patience is not None and bool(values) and len(values) - 1 - values.index(min(values)) >= patience


def one_for_each_definition(tuning: Record) -> list[Record]:
    """A tuning job as one tuning job for each of its definitions, with the ranges, objective and jobs of that one."""
    if "TrainingJobDefinition" in tuning:
        return [tuning]
    searches = []
    for definition in tuning["TrainingJobDefinitions"]:
        own = {
            "ParameterRanges": definition.get("HyperParameterRanges", {}),
            "HyperParameterTuningJobObjective": definition.get("TuningObjective"),
        }
        jobs = [job for job in tuning.get("jobs", []) if job["definition"] == definition.get("DefinitionName")]
        config = tuning["HyperParameterTuningJobConfig"] | own
        searches.append(
            tuning | {"HyperParameterTuningJobConfig": config, "TrainingJobDefinition": definition, "jobs": jobs}
        )
    return searches


def child_request(tuning: Record, name: str, point: Point) -> Record:
    """The CreateTrainingJob request of one point."""
    definition = tuning["TrainingJobDefinition"]
    objective = tuning["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["MetricName"]
    request: Record = {k: definition[k] for k in _CHILD if k in definition} | {"TrainingJobName": name}
    request |= resource_config(definition)
    static = definition.get("StaticHyperParameters", {})
    request["HyperParameters"] = static | point | {"_tuning_objective_metric": objective}
    if checkpoints := definition.get("CheckpointConfig"):
        # each training job has its own checkpoints
        request["CheckpointConfig"] = checkpoints | {"S3Uri": join_uri(checkpoints["S3Uri"], name)}
    return request


def resource_config(definition: Record) -> Record:
    """The ResourceConfig of a definition's training jobs; empty if it has no HyperParameterTuningResourceConfig.

    Of several InstanceConfigs AWS takes one for which it has instances; here it is the first.
    """
    resources = definition.get("HyperParameterTuningResourceConfig")
    if not resources:
        return {}
    first = (resources.get("InstanceConfigs") or [{}])[0]
    return {"ResourceConfig": {k: v for k, v in resources.items() if k in _RESOURCES} | first}


def summaries(records: Records, tuning: Record) -> list[Record]:
    """Summaries of a tuning job's training jobs, in the order of their start."""
    order = {job["name"]: number for number, job in enumerate(tuning["jobs"])}
    collected = [s for search in one_for_each_definition(tuning) for s in _summaries(records, search)]
    return sorted(collected, key=lambda summary: order[summary["TrainingJobName"]])


def _summaries(records: Records, tuning: Record) -> list[Record]:
    objective = tuning["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    collected = []
    for job in tuning["jobs"]:
        record = records.find(TRAINING, job["name"])
        if record is None:
            continue  # it was deleted
        members = ("TrainingJobName", "TrainingJobArn", "CreationTime", "TrainingStartTime", "TrainingEndTime")
        summary = {k: record[k] for k in (*members, "TrainingJobStatus", "FailureReason") if k in record}
        summary["TunedHyperParameters"] = job["tuned"]
        if job.get("definition"):
            summary["TrainingJobDefinitionName"] = job["definition"]
        value = [
            m["Value"] for m in record.get("FinalMetricDataList", []) if m["MetricName"] == objective["MetricName"]
        ]
        if record["TrainingJobStatus"] in ("InProgress", "Stopping"):
            summary["ObjectiveStatus"] = "Pending"
        elif value and record["TrainingJobStatus"] != "Failed":
            summary["ObjectiveStatus"] = "Succeeded"
            final = {k: objective[k] for k in ("Type", "MetricName")} | {"Value": value[0]}
            summary["FinalHyperParameterTuningJobObjectiveMetric"] = final
        else:
            summary["ObjectiveStatus"] = "Failed"
        collected.append(summary)
    return collected


def best(tuning: Record, jobs: Sequence[Record]) -> Record | None:
    """The summary of the best ended training job, the earliest of equals."""
    member = "FinalHyperParameterTuningJobObjectiveMetric"
    done = [job for job in jobs if job["ObjectiveStatus"] == "Succeeded"]
    sign = _sign(one_for_each_definition(tuning)[0])
    return min(done, key=lambda job: sign * float(job[member]["Value"]), default=None)


def _points(records: Records, tuning: Record) -> list[tuple[Point, float]]:
    """The points and objectives of a tuning job; lower is better."""
    member = "FinalHyperParameterTuningJobObjectiveMetric"
    jobs = [job for job in summaries(records, tuning) if member in job]
    return [(job["TunedHyperParameters"], _sign(tuning) * float(job[member]["Value"])) for job in jobs]


def _ranges(tuning: Record) -> Record:
    ranges: Record = tuning["HyperParameterTuningJobConfig"]["ParameterRanges"]
    return ranges


def _sign(tuning: Record) -> int:
    return (
        -1 if tuning["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]["Type"] == "Maximize" else 1
    )
