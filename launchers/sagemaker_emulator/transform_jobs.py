"""Batch transform jobs: what AWS accepts and answers; ``transform_run.py`` sends the requests."""

import threading
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sagehound_launchers.emulator.batch_jobs import BatchJobs
from sagehound_launchers.emulator.hosting import Models
from sagehound_launchers.emulator.model_server import ModelServer, NotReady, instance_id
from sagehound_launchers.emulator.transform_run import Run, environment, inputs
from sagehound_launchers.emulator.world import Failed, Record, Refused, split_uri

_LOGS = "/aws/sagemaker/TransformJobs"
_MOST_MB = 100  # of MaxPayloadInMB, and of its product with MaxConcurrentTransforms


class TransformJobs(BatchJobs):
    """Create, Describe, List and Stop."""

    KIND, PREFIX, GRACE = "transform-job", "TransformJob", 30.0

    def CreateTransformJob(self, request: Record) -> Record:
        """Check a request as AWS does, and run the job in the background."""
        container = self._world.service(Models).container(request["ModelName"])
        for wrong in _wrong(request, container):
            raise Refused("ValidationException", wrong)
        return self.create(request, {"_Container": container})

    def DescribeTransformJob(self, request: Record) -> Record:
        """All that is known of a job."""
        return self.found(request)

    def ListTransformJobs(self, request: Record) -> Record:
        """One page of jobs, the newest first unless told otherwise."""
        return self.listed(request, "Descending")

    def StopTransformJob(self, request: Record) -> None:
        """Send no further request; what was done by then stays."""
        self.stop(request)

    def resources(self, record: Record) -> Record:
        """A job's or a request's InstanceType and InstanceCount."""
        found: Record = record["TransformResources"]
        return found

    def work(self, record: Record, folder: Path, stop: threading.Event) -> Record:
        """Start the model's container, one for any number of instances, send it the objects, and end it."""
        output = record["TransformOutput"]["S3OutputPath"]
        if not self._world.objects.has_bucket(split_uri(output)[0]):
            raise Failed(f"ClientError: NoSuchBucket (404): there is no bucket of {output}")
        objects = inputs(self._world, record["TransformInput"]["DataSource"]["S3DataSource"])
        instance = f"{record['TransformJobName']}/{instance_id()}"
        model = record["_Container"]
        model = model | {"Environment": model.get("Environment", {}) | record.get("Environment", {})}
        server = ModelServer(self._world, model, folder, environment(record), partial(self._log, instance))
        note = partial(self._note, f"{instance}/data-log")
        try:
            server.start(self._world.settings.startup, stop.is_set)
            Run(self._world, record, server, stop, note).transform(objects)
        except NotReady as error:
            note("Unable to get response from algorithm")
            raise Failed("AlgorithmError: See job logs for more information") from error
        finally:
            server.stop()
        return {}

    def _log(self, stream: str, line: str) -> None:
        self._world.cloud.log(_LOGS, stream, [(int(time.time() * 1000), line)])

    def _note(self, stream: str, line: str) -> None:
        """What SageMaker itself has to say of a job."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")[:23]
        self._log(stream, f"{now}:[sagemaker logs]: {line}")


def _wrong(request: Record, container: Record) -> list[str]:
    """What AWS would refuse of a request beyond its model, and what the emulator cannot do."""
    found = []
    given = request["TransformInput"]
    if container["Mode"] == "MultiModel":
        found.append("Batch transform does not support multi-model containers.")
    if request.get("DataProcessing"):
        found.append("The emulator has no DataProcessing: filter and join the records yourself.")
    if "DataCaptureConfig" in request:
        found.append("The emulator captures no data of transform jobs.")
    if given.get("SplitType", "None") not in ("None", "Line"):
        found.append(f"SplitType {given['SplitType']}: the emulator splits into lines only.")
    kind = given["DataSource"]["S3DataSource"]["S3DataType"]
    if kind not in ("S3Prefix", "ManifestFile"):
        found.append(f"S3DataType {kind}: the emulator reads S3Prefix and ManifestFile only.")
    payload, at_once = request.get("MaxPayloadInMB", 0), request.get("MaxConcurrentTransforms", 0)
    if max(payload, payload * at_once) > _MOST_MB:
        found.append(f"MaxPayloadInMB, and its product with MaxConcurrentTransforms, must not exceed {_MOST_MB} MB.")
    return found
