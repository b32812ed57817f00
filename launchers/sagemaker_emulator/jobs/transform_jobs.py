"""Operations of batch transform jobs. ``transform_run.py`` sends the requests."""

import threading
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sagemaker_emulator.aws_services import AwsServices
from sagemaker_emulator.control import Control
from sagemaker_emulator.errors import ApiError, JobFailed
from sagemaker_emulator.hosting.model_container import ModelContainer, NotReady, instance_id
from sagemaker_emulator.hosting.models import Models
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.jobs.batch_jobs import BatchJobs
from sagemaker_emulator.jobs.transform_run import TransformRun, environment, inputs
from sagemaker_emulator.processes.containers import Containers
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.tags import Tags
from sagemaker_emulator.storage.transfers import Transfers, split_uri
from sagemaker_emulator.volume_keys import wrong_volume_key

_LOGS = "/aws/sagemaker/TransformJobs"
_MOST_MB = 100  # limit of MaxPayloadInMB, and of its product with MaxConcurrentTransforms


class TransformJobs(BatchJobs):
    """Create, Describe, List and Stop."""

    KIND, PREFIX, GRACE = "transform-job", "TransformJob", 30.0

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
        models: Models,
    ) -> None:
        super().__init__(records, identity, tags, control, tasks, containers)
        self._transfers, self._aws, self._models = transfers, aws, models

    def CreateTransformJob(self, request: Record) -> Record:
        """Validate a request as AWS does, and run the job in the background."""
        container = self._models.container(request["ModelName"])
        for wrong in _wrong(request, container):
            raise ApiError("ValidationException", wrong)
        return self.create(request, {"_Container": container})

    def DescribeTransformJob(self, request: Record) -> Record:
        """The description of a job."""
        return self.get_record(request)

    def ListTransformJobs(self, request: Record) -> Record:
        """One page of jobs, by default the newest first."""
        return self.listed(request, "Descending")

    def StopTransformJob(self, request: Record) -> None:
        """Send no further request; finished results remain."""
        self.stop(request)

    def resources(self, record: Record) -> Record:
        """InstanceType and InstanceCount of a job or a request."""
        resources: Record = record["TransformResources"]
        return resources

    def work(self, record: Record, folder: Path, stop: threading.Event) -> Record:
        """Start the model's container (one for any number of instances), send the objects, and stop it."""
        output = record["TransformOutput"]["S3OutputPath"]
        if not self._transfers.has_bucket(split_uri(output)[0]):
            raise JobFailed(f"ClientError: NoSuchBucket (404): there is no bucket of {output}")
        objects = inputs(self._transfers, record["TransformInput"]["DataSource"]["S3DataSource"])
        instance = f"{record['TransformJobName']}/{instance_id()}"
        model = record["_Container"]
        model = model | {"Environment": model.get("Environment", {}) | record.get("Environment", {})}
        server = ModelContainer(
            self._containers, self._transfers, model, folder, environment(record), partial(self._log, instance)
        )
        note = partial(self._note, f"{instance}/data-log")
        try:
            server.start(self._containers.settings.startup, stop.is_set)
            TransformRun(self._transfers, record, server, stop, note).transform(objects)
        except NotReady as error:
            note("Unable to get response from algorithm")
            raise JobFailed("AlgorithmError: See job logs for more information") from error
        finally:
            server.stop()
        return {}

    def _log(self, stream: str, line: str) -> None:
        self._aws.log(_LOGS, stream, [(int(time.time() * 1000), line)])

    def _note(self, stream: str, line: str) -> None:
        """Write a line of SageMaker itself to a log."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")[:23]
        self._log(stream, f"{now}:[sagemaker logs]: {line}")


def _wrong(request: Record, container: Record) -> list[str]:
    """Problems of a request that AWS's model does not show, and features that the emulator lacks."""
    faults = [*wrong_volume_key(request["TransformResources"], "TransformResources", alias=True)]
    given = request["TransformInput"]
    if container["Mode"] == "MultiModel":
        faults.append("Batch transform does not support multi-model containers.")
    if request.get("DataProcessing"):
        faults.append("The emulator has no DataProcessing: filter and join the records yourself.")
    if "DataCaptureConfig" in request:
        faults.append("The emulator captures no data of transform jobs.")
    if given.get("SplitType", "None") not in ("None", "Line"):
        faults.append(f"SplitType {given['SplitType']}: the emulator splits into lines only.")
    kind = given["DataSource"]["S3DataSource"]["S3DataType"]
    if kind not in ("S3Prefix", "ManifestFile"):
        faults.append(f"S3DataType {kind}: the emulator reads S3Prefix and ManifestFile only.")
    payload, at_once = request.get("MaxPayloadInMB", 0), request.get("MaxConcurrentTransforms", 0)
    if max(payload, payload * at_once) > _MOST_MB:
        faults.append(f"MaxPayloadInMB, and its product with MaxConcurrentTransforms, must not exceed {_MOST_MB} MB.")
    return faults
