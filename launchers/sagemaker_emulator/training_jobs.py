"""Training jobs: what AWS accepts and answers; ``job.py`` runs them."""

import re
import shutil
import time
from collections.abc import Callable

from sagehound_launchers.emulator.job import Run
from sagehound_launchers.emulator.listing import page, pick, select
from sagehound_launchers.emulator.processes import host_path
from sagehound_launchers.emulator.quotas import check_quota
from sagehound_launchers.emulator.tags import Tags
from sagehound_launchers.emulator.world import STOPPED, Failed, Record, Refused, World, join_uri, split_uri

KIND = "training-job"
RUNNING = ("InProgress", "Stopping")
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
    """Create, Describe, List, Stop and Delete; ``start`` is what tuning jobs use."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runs: dict[str, Run] = {}

    def CreateTrainingJob(self, request: Record) -> Record:
        """Check a request as AWS does, and run the job in the background."""
        self.start(request)
        return {"TrainingJobArn": self._world.arn(KIND, request["TrainingJobName"])}

    def start(
        self,
        request: Record,
        more: Record | None = None,
        on_metric: Callable[[str, float], None] | None = None,
    ) -> Run:
        """Make a job of a request and run it.

        Args:
            request: CreateTrainingJob's.
            more: members of the record that no request has, such as TuningJobArn.
            on_metric: called with each value that a MetricDefinition finds, while the job runs.

        Raises:
            Refused: AWS would not take the request.
        """
        name = request["TrainingJobName"]
        with self._world.lock:
            arn = self._world.arn(KIND, name)
            if self._world.find(KIND, name):
                raise Refused(
                    "ResourceInUse",
                    "Training job names must be unique within an AWS account and region, and a training job with this "
                    f"name already exists ({arn})",
                )
            check(self._world, request)
            self._check_quota(request)
            self._world.service(Tags).put(arn, request.get("Tags", []))
            self._world.save(KIND, name, _record(request, arn) | (more or {}))
            run = self._runs[name] = Run(self._world, name, on_metric)
        self._world.background(run.run)
        return run

    def _check_quota(self, request: Record) -> None:
        instance, count = request["ResourceConfig"]["InstanceType"], request["ResourceConfig"]["InstanceCount"]
        spot = bool(request.get("EnableManagedSpotTraining"))
        used = sum(
            r["ResourceConfig"]["InstanceCount"]
            for r in self._world.all(KIND)
            if r["TrainingJobStatus"] in RUNNING
            and r["ResourceConfig"]["InstanceType"] == instance
            and bool(r.get("EnableManagedSpotTraining")) == spot
        )
        use = "spot training job usage" if spot else "training job usage"
        check_quota(self._world, instance, count, used, use)

    def DescribeTrainingJob(self, request: Record) -> Record:
        """All that is known of a job."""
        return self._found(request["TrainingJobName"])

    def ListTrainingJobs(self, request: Record) -> Record:
        """One page of jobs, the oldest first unless told otherwise."""
        found = select(request, self._world.all(KIND), "TrainingJob")
        return page(request, "TrainingJobSummaries", [pick(r, *_SUMMARY) for r in found])

    def StopTrainingJob(self, request: Record) -> None:
        """Send SIGTERM; what the job left by the end of the grace is uploaded."""
        record = self._found(request["TrainingJobName"])
        status = record["TrainingJobStatus"]
        if status not in RUNNING:
            raise Refused(
                "ValidationException", f"The request was rejected because the training job is in status {status}."
            )
        self._runs[record["TrainingJobName"]].stop()

    def DeleteTrainingJob(self, request: Record) -> None:
        """Forget a job that has ended; what it left in S3 and in the logs stays."""
        record = self._found(request["TrainingJobName"])
        if record["TrainingJobStatus"] in RUNNING:
            raise Refused("ResourceInUse", "The training job is still running; stop it before deleting it.")
        self._world.remove(KIND, record["TrainingJobName"])

    def recover(self) -> None:
        """Jobs that ran when the emulator ended are Failed, as at AWS after a failure of its own."""
        shutil.rmtree(self._world.folder / "jobs", ignore_errors=True)
        for record in self._world.all(KIND):
            if record["TrainingJobStatus"] in RUNNING:
                Run(self._world, record["TrainingJobName"]).fail(STOPPED)

    def close(self) -> None:
        """Wait until the jobs have been ended, which ``world.stopping`` asks of them."""
        for run in list(self._runs.values()):
            run.ended.wait(30)

    def _found(self, name: str) -> Record:
        record = self._world.find(KIND, name)
        if record is None:
            raise Refused("ValidationException", "Requested resource not found.")
        return record


def _record(request: Record, arn: str) -> Record:
    """A new job."""
    now = time.time()
    record = {k: v for k, v in request.items() if k != "Tags"}
    output = request["OutputDataConfig"]
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


def check(world: World, request: Record) -> None:
    """Hold a request against what AWS checks beyond its model, and against what the emulator cannot run.

    Raises:
        Refused: with ValidationException.
    """
    for wrong in _wrong(world, request):
        raise Refused("ValidationException", wrong)


def _wrong(world: World, request: Record) -> list[str]:
    found = []
    role = request["RoleArn"]
    if not world.cloud.has_role(role):
        found.append(
            f"Could not assume role {role}. Please ensure that the role exists and allows principal "
            "'sagemaker.amazonaws.com' to assume the role."
        )
    algorithm = request.get("AlgorithmSpecification", {})
    if "TrainingImage" not in algorithm:
        found.append("The emulator runs only jobs with AlgorithmSpecification.TrainingImage.")
    resources = request.get("ResourceConfig", {})
    if not resources.get("InstanceType") or not resources.get("InstanceCount"):
        found.append("The emulator runs only jobs with ResourceConfig.InstanceType and InstanceCount (at least 1).")
    stopping = request.get("StoppingCondition", {})
    wait, runtime = stopping.get("MaxWaitTimeInSeconds"), stopping.get("MaxRuntimeInSeconds", 86400)
    if request.get("EnableManagedSpotTraining"):
        if wait is None or wait < runtime:
            found.append(
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to MaxRuntimeInSeconds"
            )
    elif wait is not None:
        found.append("MaxWaitTimeInSeconds above 0 is not supported if EnableManagedSpotTraining is set to false")
    return found + _wrong_channels(world, request) + _wrong_metrics(algorithm) + _wrong_paths(world, request)


def _wrong_channels(world: World, request: Record) -> list[str]:
    channels = request.get("InputDataConfig", [])
    names = [c["ChannelName"] for c in channels]
    found = [f"Channel names must be unique: {n}" for n in sorted({n for n in names if names.count(n) > 1})]
    default = request.get("AlgorithmSpecification", {}).get("TrainingInputMode")
    for channel in channels:
        source = channel["DataSource"].get("S3DataSource")
        if source is None or source["S3DataType"] not in ("S3Prefix", "ManifestFile"):
            found.append(f"Channel {channel['ChannelName']}: the emulator reads S3Prefix and ManifestFile only")
        if channel.get("InputMode", default) == "Pipe":
            found.append(f"Channel {channel['ChannelName']}: the emulator has no input mode Pipe")
        if source and not world.objects.keys(*split_uri(source["S3Uri"])):
            bucket = split_uri(source["S3Uri"])[0]
            found.append(
                f'No S3 objects found under S3 URL "{source["S3Uri"]}" given in input data source. Please ensure that '
                f"the bucket exists in the selected region ({world.region}), that objects exist under that S3 prefix, "
                f'and that the role "{request["RoleArn"]}" has "s3:ListBucket" permissions on bucket "{bucket}".'
            )
    return found


def _wrong_metrics(algorithm: Record) -> list[str]:
    found = []
    for metric in algorithm.get("MetricDefinitions", []):
        try:
            re.compile(metric["Regex"])
        except re.error as error:
            found.append(f"Invalid regular expression of metric {metric['Name']}: {metric['Regex']}: {error}")
    return found


def _wrong_paths(world: World, request: Record) -> list[str]:
    found = []
    for member in ("CheckpointConfig", "DebugHookConfig", "TensorBoardOutputConfig"):
        try:
            host_path(world.folder, request.get(member, {}).get("LocalPath", "/opt/ml"))
        except Failed as error:
            found.append(f"{member}.LocalPath: {error}")
    return found
