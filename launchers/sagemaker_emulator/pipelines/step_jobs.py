"""The jobs of steps: requests of the emulator's own operations, validated as if a client had sent them."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sagemaker_emulator.errors import ApiError
from sagemaker_emulator.hosting.model_registry import GROUP, ModelRegistry
from sagemaker_emulator.hosting.models import Models
from sagemaker_emulator.jobs.processing_jobs import ProcessingJobs
from sagemaker_emulator.jobs.training_jobs import TrainingJobs
from sagemaker_emulator.jobs.transform_jobs import TransformJobs
from sagemaker_emulator.jobs.tuning_jobs import TuningJobs
from sagemaker_emulator.jobs.tuning_run import one_for_each_definition
from sagemaker_emulator.pipelines.definition import Json
from sagemaker_emulator.request_validation import check, service_model
from sagemaker_emulator.storage.records import Record, Records

RUNNING = ("InProgress", "Stopping")


@dataclass(frozen=True)
class Kind:
    """A type of step that runs a job."""

    job: str  # the stem of its operations and members: TrainingJob
    metadata: str  # its member of a step's Metadata
    longest: int  # characters of a name


KINDS = {
    "Training": Kind("TrainingJob", "TrainingJob", 63),
    "Tuning": Kind("HyperParameterTuningJob", "TuningJob", 32),
    "Processing": Kind("ProcessingJob", "ProcessingJob", 63),
    "Transform": Kind("TransformJob", "TransformJob", 63),
    "Model": Kind("Model", "Model", 63),
    "RegisterModel": Kind("ModelPackage", "RegisterModel", 63),
}


class StepJobs:
    """Creates, describes and stops the jobs of steps."""

    def __init__(
        self,
        records: Records,
        training: TrainingJobs,
        tuning: TuningJobs,
        processing: ProcessingJobs,
        transform: TransformJobs,
        models: Models,
        registry: ModelRegistry,
    ) -> None:
        self._records, self._registry = records, registry
        services = (training, tuning, processing, transform, models, registry)
        self._operations: dict[str, Callable[[Record], Record | None]] = {
            name: getattr(service, name) for service in services for name in dir(service) if name[0].isupper()
        }

    def create(self, kind: str, name: str, arguments: Record, execution: str) -> str:
        """Create a step's job, if it does not exist yet; returns its ARN.

        Args:
            kind: the step's type.
            name: of the job.
            arguments: the step's, without references.
            execution: the ARN of the pipeline's execution.

        Raises:
            ApiError: AWS would refuse the request.
        """
        job = KINDS[kind].job
        operation = f"Create{job}"
        request = shaped(service_model("sagemaker").operation_model(operation).input_shape, arguments)
        if kind == "RegisterModel":
            return self._register(request, execution, name)
        with self._records.lock:
            try:
                return str(self.describe(kind, name)[f"{job}Arn"])  # created before the emulator was ended
            except ApiError:
                response = self._call(operation, request | {f"{job}Name": name})
        return str(response[f"{job}Arn"])

    def describe(self, kind: str, name: str) -> Record:
        """A job's description, with the summaries of a tuning job's training jobs.

        Raises:
            ApiError: there is no such job.
        """
        job = KINDS[kind].job
        described = dict(self._call(f"Describe{job}", {f"{job}Name": name}))
        if kind == "Tuning":
            request = {f"{job}Name": name, "SortBy": "FinalObjectiveMetricValue", "MaxResults": 100}
            search = one_for_each_definition(described)[0]["HyperParameterTuningJobConfig"]
            maximizes = search["HyperParameterTuningJobObjective"]["Type"] == "Maximize"
            request["SortOrder"] = "Descending" if maximizes else "Ascending"
            described |= self._call("ListTrainingJobsForHyperParameterTuningJob", request)
        return described

    def state(self, kind: str, name: str) -> tuple[str, str]:
        """A job's status and FailureReason; models and packages are complete at once."""
        if kind in ("Model", "RegisterModel"):
            return "Completed", ""
        try:
            described = self.describe(kind, name)
        except ApiError:
            return "Failed", f"ClientError: {KINDS[kind].job} {name} was deleted"
        return described[f"{KINDS[kind].job}Status"], described.get("FailureReason", "")

    def stop(self, kind: str, name: str) -> None:
        """Stop a job that runs."""
        try:
            self._call(f"Stop{KINDS[kind].job}", {f"{KINDS[kind].job}Name": name})
        except ApiError:
            return  # it has ended

    def _register(self, request: Record, execution: str, name: str) -> str:
        """A new version of a package; its group is created if it is missing. Each attempt registers it once."""
        group = request.get("ModelPackageGroupName")
        request["MetadataProperties"] = request.get("MetadataProperties", {}) | {"GeneratedBy": execution}
        request["ClientToken"] = hashlib.sha256(name.encode()).hexdigest()[:36]
        with self._records.lock:
            if group and not self._records.find(GROUP, group.rpartition("/")[2]):
                self._call("CreateModelPackageGroup", {"ModelPackageGroupName": group})
            return str(self._call("CreateModelPackage", request)["ModelPackageArn"])

    def _call(self, operation: str, request: Record) -> Record:
        check(operation, request)
        with self._records.lock:
            return self._operations[operation](request) or {}


def job_name(kind: str, execution_id: str, step: str, attempt: int) -> str:
    """The name of a step's job. It follows from its arguments, so that a restarted emulator finds the job."""
    suffix = hashlib.sha256(f"{execution_id}/{step}/{attempt}".encode()).hexdigest()[:10]
    start = execution_id if kind == "Tuning" else f"pipelines-{execution_id}"
    room = KINDS[kind].longest - len(start) - len(suffix) - 2
    return f"{start}-{step[:room].strip('-')}-{suffix}"


def shaped(shape: Any, value: Json) -> Json:  # noqa: ANN401 - botocore ships no types
    """A value in the types of a request's shape: a number becomes text where AWS takes text, and the reverse."""
    kind = shape.type_name
    if kind == "structure" and isinstance(value, Mapping):
        return {k: shaped(shape.members[k], v) if k in shape.members else v for k, v in value.items()}
    if kind == "map" and isinstance(value, Mapping):
        return {k: shaped(shape.value, v) for k, v in value.items()}
    if kind == "list" and isinstance(value, list):
        return [shaped(shape.member, v) for v in value]
    if kind == "string" and isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if kind in ("integer", "long") and isinstance(value, str) and value.lstrip("-").isdecimal():
        return int(value)
    return value
