"""Processing jobs: a container with inputs from S3 and outputs to S3."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sagemaker_emulator.aws_services import AwsServices
from sagemaker_emulator.control import Control
from sagemaker_emulator.errors import ApiError, JobFailed
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.jobs.batch_jobs import BatchJobs
from sagemaker_emulator.processes.containers import Container, Containers, host_path
from sagemaker_emulator.processes.tasks import Tasks
from sagemaker_emulator.storage.atomic_files import write_json, write_text
from sagemaker_emulator.storage.records import Record, Records
from sagemaker_emulator.storage.tags import Tags
from sagemaker_emulator.storage.transfers import Transfers, split_uri
from sagemaker_emulator.volume_keys import wrong_volume_key

_LOGS = "/aws/sagemaker/ProcessingJobs"
_LOCAL = "/opt/ml/processing/"
_POLL = 0.05  # seconds between two polls of the processes
_MOST_SECONDS = 86400  # default time limit of a job: AWS's
_MOST_SAID = 1024  # characters of ExitMessage
_TOLD = (  # members of processingjobconfig.json
    "ProcessingJobArn",
    "ProcessingJobName",
    "AppSpecification",
    "Environment",
    "NetworkConfig",
    "ProcessingInputs",
    "ProcessingOutputConfig",
    "ProcessingResources",
    "RoleArn",
    "StoppingCondition",
)


class ProcessingJobs(BatchJobs):
    """Create, Describe, List, Stop and Delete."""

    KIND, PREFIX = "processing-job", "ProcessingJob"

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
        super().__init__(records, identity, tags, control, tasks, containers)
        self._transfers, self._aws = transfers, aws

    def CreateProcessingJob(self, request: Record) -> Record:
        """Validate a request as AWS does, and run the job in the background."""
        for wrong in self._wrong(request):
            raise ApiError("ValidationException", wrong)
        limit = {"StoppingCondition": {"MaxRuntimeInSeconds": _MOST_SECONDS}} | request
        return self.create(limit, {})

    def DescribeProcessingJob(self, request: Record) -> Record:
        """The description of a job."""
        return self.get_record(request)

    def ListProcessingJobs(self, request: Record) -> Record:
        """One page of jobs, by default the oldest first."""
        return self.listed(request, "Ascending")

    def StopProcessingJob(self, request: Record) -> None:
        """Send SIGTERM, and SIGKILL after the grace."""
        self.stop(request)

    def DeleteProcessingJob(self, request: Record) -> None:
        """Delete a job that has ended; its objects in S3 and its logs remain."""
        self.delete(request)

    def resources(self, record: Record) -> Record:
        """InstanceType and InstanceCount of a job or a request."""
        cluster: Record = record["ProcessingResources"]["ClusterConfig"]
        return cluster

    def work(self, record: Record, folder: Path, stop: threading.Event) -> Record:
        """Download the inputs, run one process per instance, and upload the outputs if all succeeded."""
        for _, uri, _ in _outputs(record):
            if not self._transfers.has_bucket(split_uri(uri)[0]):
                raise JobFailed(f"ClientError: NoSuchBucket (404): there is no bucket of {uri}")
        named = self._containers.make_hosts(folder, self.resources(record)["InstanceCount"])
        hosts = list(named.values())
        for number, opt_ml in enumerate(hosts):
            self._prepare(record, opt_ml, list(named), number)
        uploads = _Uploads(self._transfers, record, hosts)
        code = self._run_all(record, hosts, stop, uploads)
        message = hosts[0] / "output" / "message"
        exit_message = {"ExitMessage": message.read_text(errors="replace")[:_MOST_SAID]} if message.is_file() else {}
        uploads.send(continuous=True)
        if code:
            self._records.change(self.KIND, record["ProcessingJobName"], **exit_message)
            raise JobFailed("AlgorithmError: See job logs for more information")
        if not stop.is_set():
            uploads.send(continuous=False)
        return exit_message

    def _prepare(self, record: Record, opt_ml: Path, names: list[str], number: int) -> None:
        """Make one instance's /opt/ml."""
        for folder in ("config", "output", "processing"):
            (opt_ml / folder).mkdir(parents=True)
        for given in record.get("ProcessingInputs", []):
            source = given["S3Input"]
            manifest = source["S3DataType"] == "ManifestFile"
            objects = (self._transfers.list_manifest if manifest else self._transfers.list)(source["S3Uri"])
            if source.get("S3DataDistributionType") == "ShardedByS3Key":
                objects = objects[number :: len(names)]
            self._transfers.fetch(objects, host_path(opt_ml, source["LocalPath"]))
        for local, _, _ in _outputs(record):
            host_path(opt_ml, local).mkdir(parents=True, exist_ok=True)
        described = {k: v for k, v in record.items() if k in _TOLD}
        text = self._containers.translate(json.dumps(described, indent=2), opt_ml)
        write_text(opt_ml / "config" / "processingjobconfig.json", text)
        write_json(opt_ml / "config" / "resourceconfig.json", {"current_host": names[number], "hosts": names})

    def _run_all(self, record: Record, hosts: list[Path], stop: threading.Event, uploads: "_Uploads") -> int:
        """Run the processes to their end, or until ``stop`` is set; returns the first error's exit code."""
        until = time.monotonic() + record["StoppingCondition"]["MaxRuntimeInSeconds"]
        containers: list[Container] = []
        synced = time.monotonic()
        try:
            for number, opt_ml in enumerate(hosts, 1):
                containers.append(self._launch(record, opt_ml, number))
            while any(c.code is None for c in containers) and not any(c.code for c in containers):
                if self._tasks.stopping.is_set() or time.monotonic() > until:
                    stop.set()
                if stop.wait(_POLL):
                    break
                if time.monotonic() - synced > self._containers.settings.sync:
                    uploads.send(continuous=True)
                    synced = time.monotonic()
            failed = next((c.code for c in containers if c.code), 0)  # before the others are stopped
        finally:
            if containers:
                with ThreadPoolExecutor(len(containers)) as threads:
                    list(threads.map(lambda c: c.stop(self.grace()), containers))
        return 0 if stop.is_set() else failed

    def _launch(self, record: Record, opt_ml: Path, number: int) -> Container:
        what = record["AppSpecification"]
        command = what.get("ContainerEntrypoint") or self._containers.images.command(what["ImageUri"], "process")
        stream = f"{record['ProcessingJobName']}/algo-{number}-{time.time_ns() // 1_000_000}"

        def on_line(line: str) -> None:
            self._aws.log(_LOGS, stream, [(int(time.time() * 1000), line)])

        words = [*command, *what.get("ContainerArguments", [])]
        return self._containers.start(what["ImageUri"], words, opt_ml, record.get("Environment", {}), on_line)

    def _wrong(self, request: Record) -> list[str]:
        """Problems of a request that AWS's model does not show, and features that the emulator lacks."""
        faults = []
        cluster = request["ProcessingResources"]["ClusterConfig"]
        if not self._aws.has_role(request["RoleArn"]):
            faults.append(
                f"Could not assume role {request['RoleArn']}. Please ensure that the role exists and allows principal "
                "'sagemaker.amazonaws.com' to assume the role."
            )
        faults += wrong_volume_key(cluster, "ProcessingResources.ClusterConfig", alias=True)
        if not cluster.get("InstanceType") or not cluster.get("InstanceCount"):
            faults.append("The emulator runs only jobs with ClusterConfig.InstanceType and InstanceCount.")
        for given in request.get("ProcessingInputs", []):
            source = given.get("S3Input", {})
            if "S3Uri" not in source or source.get("S3InputMode", "File") != "File":
                faults.append(f"Input {given['InputName']}: the emulator reads S3Input in the mode File only.")
            if source.get("S3CompressionType", "None") != "None":
                faults.append(f"Input {given['InputName']}: the emulator decompresses no inputs.")
            faults += _wrong_path(f"Input {given['InputName']}", source.get("LocalPath", ""))
        for given in request.get("ProcessingOutputConfig", {}).get("Outputs", []):
            if given.get("AppManaged"):
                continue
            if "S3Output" not in given:
                faults.append(f"Output {given['OutputName']}: the emulator writes S3Output only.")
            faults += _wrong_path(f"Output {given['OutputName']}", given.get("S3Output", {}).get("LocalPath", ""))
        return faults


class _Uploads:
    """Uploads to S3 during and after a job."""

    def __init__(self, transfers: Transfers, record: Record, hosts: list[Path]) -> None:
        self._transfers = transfers
        self._folders = [
            (host_path(opt_ml, local), uri, continuous, dict[str, tuple[int, int]]())
            for local, uri, continuous in _outputs(record)
            for opt_ml in hosts
        ]

    def send(self, continuous: bool) -> None:
        """Upload new files of the outputs of one mode.

        Raises:
            JobFailed: there is no such bucket.
        """
        for folder, uri, mode, known in self._folders:
            if mode == continuous and folder.is_dir():
                self._transfers.upload_folder(folder, uri, known)


def _outputs(record: Record) -> list[tuple[str, str, bool]]:
    """The outputs: local path, S3 URI, and whether they are uploaded continuously."""
    given = record.get("ProcessingOutputConfig", {}).get("Outputs", [])
    destinations = [output["S3Output"] for output in given if not output.get("AppManaged")]
    return [(o["LocalPath"], o["S3Uri"], o["S3UploadMode"] == "Continuous") for o in destinations]


def _wrong_path(what: str, path: str) -> list[str]:
    if f"{path}/".startswith(_LOCAL) and ".." not in path.split("/"):
        return []
    return [f"{what}: LocalPath must begin with {_LOCAL}"]
