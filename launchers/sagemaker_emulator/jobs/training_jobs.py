"""Operations of training jobs. ``training_run.py`` runs them."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from sagemaker_emulator.aws_services import AwsServices
from sagemaker_emulator.control import Control
from sagemaker_emulator.errors import STOPPED, ApiError, JobFailed
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.jobs.training_run import TrainingRun
from sagemaker_emulator.processes.containers import Containers, host_path
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.quotas import check_quota
from sagemaker_emulator.storage.listing import page, pick, select
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.tags import Tags
from sagemaker_emulator.storage.transfers import Transfers, join_uri, split_uri
from sagemaker_emulator.volume_keys import wrong_volume_key

KIND = "training-job"
RUNNING = ("InProgress", "Stopping")
_INTERVALS = (100, 200, 500, 1000, 5000, 60000)  # milliseconds between two samples of the profiler
_FLAGS = (
    "EnableNetworkIsolation",
    "EnableInterContainerTrafficEncryption",
    "EnableManagedSpotTraining",
)  # that a description always has
_SUMMARY = (
    "TrainingJobName",
    "TrainingJobArn",
    "CreationTime",
    "TrainingEndTime",
    "LastModifiedTime",
    "TrainingJobStatus",
    "SecondaryStatus",
)


class TrainingJobs:
    """Create, Describe, List, Stop and Delete; tuning jobs use ``start``."""

    def __init__(
        self,
        records: Records,
        identity: Identity,
        tags: Tags,
        control: Control,
        tasks: Tasks,
        containers: Containers,
        transfers: Transfers,
        aws: AwsServices,
    ) -> None:
        self._records, self._identity, self._tags, self._control, self._tasks = records, identity, tags, control, tasks
        self._containers, self._transfers, self._aws = containers, transfers, aws
        self._runs: dict[str, TrainingRun] = {}

    def CreateTrainingJob(self, request: Record) -> Record:
        """Validate a request as AWS does, and run the job in the background."""
        self.start(request)
        return {"TrainingJobArn": self._identity.arn(KIND, request["TrainingJobName"])}

    def start(
        self,
        request: Record,
        more: Record | None = None,
        on_metric: Callable[[str, float], None] | None = None,
    ) -> TrainingRun:
        """Create a job and run it.

        Args:
            request: of CreateTrainingJob.
            more: additional members of the record, such as TuningJobArn.
            on_metric: called with each value of a MetricDefinition while the job runs.

        Raises:
            ApiError: AWS would refuse the request.
        """
        name = request["TrainingJobName"]
        with self._records.lock:
            arn = self._identity.arn(KIND, name)
            if self._records.find(KIND, name):
                raise ApiError(
                    "ResourceInUse",
                    "Training job names must be unique within an AWS account and region, and a training job with this "
                    f"name already exists ({arn})",
                )
            self.check(request)
            self._check_quota(request)
            inherited = self._tags.of(more["TuningJobArn"]) if more and "TuningJobArn" in more else []
            self._tags.put(arn, request.get("Tags", []) + inherited)
            self._records.save(KIND, name, _record(request, arn) | (more or {}))
            run = self._runs[name] = self._make_run(name, on_metric)
        self._tasks.background(run.run)
        return run

    def check(self, request: Record) -> None:
        """Validate a request by AWS's rules beyond its model, and by the emulator's limits.

        Raises:
            ApiError: with ValidationException.
        """
        problems = _wrong(request, self._aws)
        problems += _wrong_channels(request, self._transfers, self._identity.region)
        algorithm = request.get("AlgorithmSpecification", {})
        problems += [*_wrong_metrics(algorithm), *_wrong_paths(request), *self._unknown_image(algorithm)]
        for problem in problems:
            raise ApiError("ValidationException", problem)

    def _unknown_image(self, algorithm: Record) -> list[str]:
        image = algorithm.get("TrainingImage")
        if image and not algorithm.get("ContainerEntrypoint"):
            try:
                self._containers.images.command(image, "train")
            except JobFailed as error:
                return [str(error).removeprefix("ClientError: ")]
        return []

    def _make_run(self, name: str, on_metric: Callable[[str, float], None] | None = None) -> TrainingRun:
        return TrainingRun(self._records, self._transfers, self._containers, self._aws, self._control, name, on_metric)

    def _check_quota(self, request: Record) -> None:
        instance, count = request["ResourceConfig"]["InstanceType"], request["ResourceConfig"]["InstanceCount"]
        spot = bool(request.get("EnableManagedSpotTraining"))
        used = sum(
            r["ResourceConfig"]["InstanceCount"]
            for r in self._records.all(KIND)
            if r["TrainingJobStatus"] in RUNNING
            and r["ResourceConfig"]["InstanceType"] == instance
            and bool(r.get("EnableManagedSpotTraining")) == spot
        )
        use = "spot training job usage" if spot else "training job usage"
        check_quota(self._control, instance, count, used, use)

    def DescribeTrainingJob(self, request: Record) -> Record:
        """The description of a job."""
        return self._record(request["TrainingJobName"])

    def ListTrainingJobs(self, request: Record) -> Record:
        """One page of jobs, by default the oldest first; MaxResults counts those of any status, as at AWS."""
        status, late = request.get("StatusEquals"), "StatusEquals" if "MaxResults" in request else ""
        plan, pool = request.get("TrainingPlanArnEquals"), request.get("WarmPoolStatusEquals")
        jobs = select({k: v for k, v in request.items() if k != late}, self._records.all(KIND), "TrainingJob")
        jobs = [j for j in jobs if plan in (None, j["ResourceConfig"].get("TrainingPlanArn")) and pool is None]
        listed = page(request, "TrainingJobSummaries", [pick(r, *_SUMMARY) for r in jobs])
        chosen = [r for r in listed["TrainingJobSummaries"] if status in (None, r["TrainingJobStatus"])]
        return listed | {"TrainingJobSummaries": chosen}

    def StopTrainingJob(self, request: Record) -> None:
        """Send SIGTERM; the job's files are uploaded after the grace."""
        record = self._record(request["TrainingJobName"])
        status = record["TrainingJobStatus"]
        if status not in RUNNING:
            raise ApiError(
                "ValidationException", f"The request was rejected because the training job is in status {status}."
            )
        self._runs[record["TrainingJobName"]].stop()

    def DeleteTrainingJob(self, request: Record) -> None:
        """Delete a job that has ended; its objects in S3 and its logs remain."""
        record = self._record(request["TrainingJobName"])
        if record["TrainingJobStatus"] in RUNNING:
            raise ApiError("ResourceInUse", "The training job is still running; stop it before deleting it.")
        self._records.remove(KIND, record["TrainingJobName"])

    def recover(self) -> None:
        """Mark jobs that ran when the emulator ended as Failed, as AWS does after an internal error."""
        shutil.rmtree(self._containers.folder / "jobs", ignore_errors=True)
        for record in self._records.all(KIND):
            if record["TrainingJobStatus"] in RUNNING:
                self._make_run(record["TrainingJobName"]).fail(STOPPED)

    def close(self) -> None:
        """Wait until the jobs have ended; ``tasks.stopping`` is set."""
        for run in list(self._runs.values()):
            run.ended.wait(30)

    def _record(self, name: str) -> Record:
        record = self._records.find(KIND, name)
        if record is None:
            raise ApiError("ValidationException", "Requested resource not found.")
        return record


def _record(request: Record, arn: str) -> Record:
    """The record of a new job."""
    now = time.time()
    record = {k: v for k, v in request.items() if k != "Tags"}
    output = request["OutputDataConfig"]
    record["OutputDataConfig"] = {"KmsKeyId": "", "CompressionType": "GZIP"} | output  # as AWS describes them
    record = dict.fromkeys(_FLAGS, False) | record
    artifact = "model/" if output.get("CompressionType") == "NONE" else "model.tar.gz"
    record |= {
        "TrainingJobArn": arn,
        "TrainingJobStatus": "InProgress",
        "SecondaryStatus": "Starting",
        "CreationTime": now,
        "LastModifiedTime": now,
        "SecondaryStatusTransitions": [],
        "StoppingCondition": {"MaxRuntimeInSeconds": 86400} | request.get("StoppingCondition", {}),
        "ModelArtifacts": {
            "S3ModelArtifacts": join_uri(output["S3OutputPath"], request["TrainingJobName"], "output", artifact)
        },
    }
    if profiler := request.get("ProfilerConfig"):
        record["ProfilingStatus"] = "Disabled" if profiler.get("DisableProfiler") else "Enabled"
    for kind in ("Debug", "Profiler"):
        if rules := request.get(f"{kind}RuleConfigurations"):
            record[f"{kind}RuleEvaluationStatuses"] = [
                {
                    "RuleConfigurationName": rule["RuleConfigurationName"],
                    "RuleEvaluationStatus": "InProgress",
                    "LastModifiedTime": now,
                }
                for rule in rules
            ]
    return record


def _wrong(request: Record, aws: AwsServices) -> list[str]:
    faults = []
    role = request["RoleArn"]
    if not aws.has_role(role):
        faults.append(
            f"Could not assume role {role}. Please ensure that the role exists and allows principal "
            "'sagemaker.amazonaws.com' to assume the role."
        )
    algorithm = request.get("AlgorithmSpecification", {})
    if "TrainingImage" not in algorithm:
        faults.append("The emulator runs only jobs with AlgorithmSpecification.TrainingImage.")
    resources = request.get("ResourceConfig", {})
    if not resources.get("InstanceType") or not resources.get("InstanceCount"):
        faults.append("The emulator runs only jobs with ResourceConfig.InstanceType and InstanceCount (at least 1).")
    faults += wrong_volume_key(resources, "ResourceConfig")
    interval = request.get("ProfilerConfig", {}).get("ProfilingIntervalInMilliseconds")
    if interval is not None and interval not in _INTERVALS:
        allowed = ", ".join(map(str, _INTERVALS))
        faults.append(f"ProfilerConfig.ProfilingIntervalInMilliseconds: {interval} must be one of {allowed}")
    stopping = request.get("StoppingCondition", {})
    wait, runtime = stopping.get("MaxWaitTimeInSeconds"), stopping.get("MaxRuntimeInSeconds", 86400)
    if request.get("EnableManagedSpotTraining"):
        if wait is None or wait < runtime:
            faults.append(
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds"
            )
    elif wait is not None:
        faults.append("MaxWaitTimeInSeconds above 0 is not supported if EnableManagedSpotTraining is set to false")
    return faults


def _wrong_channels(request: Record, transfers: Transfers, region: str) -> list[str]:
    channels = request.get("InputDataConfig", [])
    names = [c["ChannelName"] for c in channels]
    faults = [f"Channel names must be unique: {n}" for n in sorted({n for n in names if names.count(n) > 1})]
    default = request.get("AlgorithmSpecification", {}).get("TrainingInputMode")
    for channel in channels:
        source = channel["DataSource"].get("S3DataSource")
        if source is None or source["S3DataType"] not in ("S3Prefix", "ManifestFile"):
            faults.append(f"Channel {channel['ChannelName']}: the emulator reads S3Prefix and ManifestFile only")
        if channel.get("InputMode", default) == "Pipe":
            faults.append(f"Channel {channel['ChannelName']}: the emulator has no input mode Pipe")
        if source and not transfers.keys(*split_uri(source["S3Uri"])):
            bucket = split_uri(source["S3Uri"])[0]
            faults.append(
                f'No S3 objects found under S3 URL "{source["S3Uri"]}" given in input data source. Please ensure that '
                f"the bucket exists in the selected region ({region}), that objects exist under that S3 prefix, "
                f'and that the role "{request["RoleArn"]}" has "s3:ListBucket" permissions on bucket "{bucket}".'
            )
    return faults


def _wrong_metrics(algorithm: Record) -> list[str]:
    faults = []
    for metric in algorithm.get("MetricDefinitions", []):
        try:
            re.compile(metric["Regex"])
        except re.error as error:
            faults.append(f"Invalid regular expression of metric {metric['Name']}: {metric['Regex']}: {error}")
    return faults


def _wrong_paths(request: Record) -> list[str]:
    faults = []
    for member in ("CheckpointConfig", "DebugHookConfig", "TensorBoardOutputConfig"):
        try:
            host_path(Path(), request.get(member, {}).get("LocalPath", "/opt/ml"))
        except JobFailed as error:
            faults.append(f"{member}.LocalPath: {error}")
    return faults
