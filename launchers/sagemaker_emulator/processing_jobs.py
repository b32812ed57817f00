"""Processing jobs: a container over inputs from S3, whose outputs go back there."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sagehound.files import write_json, write_text
from sagehound_launchers.emulator.batch_jobs import BatchJobs
from sagehound_launchers.emulator.processes import Container, command_of, host_path, translate
from sagehound_launchers.emulator.world import Failed, Record, Refused, World, split_uri

_LOGS = "/aws/sagemaker/ProcessingJobs"
_LOCAL = "/opt/ml/processing/"
_POLL = 0.05  # seconds between two looks at the processes
_MOST_SECONDS = 86400  # of a job whose request names no limit; AWS's own
_MOST_SAID = 1024  # letters of ExitMessage
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
    """Create, Describe, List and Stop."""

    KIND, PREFIX = "processing-job", "ProcessingJob"

    def CreateProcessingJob(self, request: Record) -> Record:
        """Check a request as AWS does, and run the job in the background."""
        for wrong in self._wrong(request):
            raise Refused("ValidationException", wrong)
        limit = {"StoppingCondition": {"MaxRuntimeInSeconds": _MOST_SECONDS}} | request
        return self.create(limit, {})

    def DescribeProcessingJob(self, request: Record) -> Record:
        """All that is known of a job."""
        return self.found(request)

    def ListProcessingJobs(self, request: Record) -> Record:
        """One page of jobs, the oldest first unless told otherwise."""
        return self.listed(request, "Ascending")

    def StopProcessingJob(self, request: Record) -> None:
        """Send SIGTERM, and SIGKILL once the grace is over."""
        self.stop(request)

    def resources(self, record: Record) -> Record:
        """A job's or a request's InstanceType and InstanceCount."""
        found: Record = record["ProcessingResources"]["ClusterConfig"]
        return found

    def work(self, record: Record, folder: Path, stop: threading.Event) -> Record:
        """Fetch the inputs, run one process for each instance, and upload the outputs if all went well."""
        names = [f"127.0.0.{i + 1}" for i in range(self.resources(record)["InstanceCount"])]  # that resolve everywhere
        hosts = [folder / name / "ml" for name in names]
        for _, uri, _ in _outputs(record):
            if not self._world.objects.has_bucket(split_uri(uri)[0]):
                raise Failed(f"ClientError: NoSuchBucket (404): there is no bucket of {uri}")
        for number, opt_ml in enumerate(hosts):
            self._prepare(record, opt_ml, names, number)
        uploads = _Uploads(self._world, record, hosts)
        code = self._run_all(record, hosts, stop, uploads)
        message = hosts[0] / "output" / "message"
        said = {"ExitMessage": message.read_text(errors="replace")[:_MOST_SAID]} if message.is_file() else {}
        uploads.send(continuous=True)
        if code:
            self._world.change(self.KIND, record["ProcessingJobName"], **said)
            raise Failed("AlgorithmError: See job logs for more information")
        if not stop.is_set():
            uploads.send(continuous=False)
        return said

    def _prepare(self, record: Record, opt_ml: Path, names: list[str], number: int) -> None:
        """Make one instance's /opt/ml."""
        for folder in ("config", "output", "processing"):
            (opt_ml / folder).mkdir(parents=True)
        for given in record.get("ProcessingInputs", []):
            source = given["S3Input"]
            manifest = source["S3DataType"] == "ManifestFile"
            objects = (self._world.list_manifest if manifest else self._world.list_objects)(source["S3Uri"])
            if source.get("S3DataDistributionType") == "ShardedByS3Key":
                objects = objects[number :: len(names)]
            self._world.fetch(objects, host_path(opt_ml, source["LocalPath"]))
        for local, _, _ in _outputs(record):
            host_path(opt_ml, local).mkdir(parents=True, exist_ok=True)
        told = {k: v for k, v in record.items() if k in _TOLD}
        write_text(opt_ml / "config" / "processingjobconfig.json", translate(json.dumps(told, indent=2), opt_ml))
        write_json(opt_ml / "config" / "resourceconfig.json", {"current_host": names[number], "hosts": names})

    def _run_all(self, record: Record, hosts: list[Path], stop: threading.Event, uploads: "_Uploads") -> int:
        """Run the processes until they end or something ends them, which sets ``stop``; the worst exit code."""
        until = time.monotonic() + record["StoppingCondition"]["MaxRuntimeInSeconds"]
        containers: list[Container] = []
        synced = time.monotonic()
        try:
            for number, opt_ml in enumerate(hosts, 1):
                containers.append(self._launch(record, opt_ml, number))
            while any(c.code is None for c in containers) and not any(c.code for c in containers):
                if self._world.stopping.is_set() or time.monotonic() > until:
                    stop.set()
                if stop.wait(_POLL):
                    break
                if time.monotonic() - synced > self._world.settings.sync:
                    uploads.send(continuous=True)
                    synced = time.monotonic()
            failed = next((c.code for c in containers if c.code), 0)  # before the others are ended
        finally:
            if containers:
                with ThreadPoolExecutor(len(containers)) as threads:
                    list(threads.map(lambda c: c.stop(self.grace()), containers))
        return 0 if stop.is_set() else failed

    def _launch(self, record: Record, opt_ml: Path, number: int) -> Container:
        what = record["AppSpecification"]
        command = what.get("ContainerEntrypoint") or command_of(self._world, what["ImageUri"], "process")
        stream = f"{record['ProcessingJobName']}/algo-{number}-{time.time_ns() // 1_000_000}"

        def on_line(line: str) -> None:
            self._world.cloud.log(_LOGS, stream, [(int(time.time() * 1000), line)])

        words = [*command, *what.get("ContainerArguments", [])]
        return Container(self._world, words, opt_ml, record.get("Environment", {}), on_line)

    def _wrong(self, request: Record) -> list[str]:
        """What AWS would refuse of a request beyond its model, and what the emulator cannot do."""
        found = []
        cluster = request["ProcessingResources"]["ClusterConfig"]
        if not self._world.cloud.has_role(request["RoleArn"]):
            found.append(
                f"Could not assume role {request['RoleArn']}. Please ensure that the role exists and allows principal "
                "'sagemaker.amazonaws.com' to assume the role."
            )
        if not cluster.get("InstanceType") or not cluster.get("InstanceCount"):
            found.append("The emulator runs only jobs with ClusterConfig.InstanceType and InstanceCount.")
        for given in request.get("ProcessingInputs", []):
            source = given.get("S3Input", {})
            if "S3Uri" not in source or source.get("S3InputMode", "File") != "File":
                found.append(f"Input {given['InputName']}: the emulator reads S3Input in the mode File only.")
            if source.get("S3CompressionType", "None") != "None":
                found.append(f"Input {given['InputName']}: the emulator decompresses no inputs.")
            found += _wrong_path(f"Input {given['InputName']}", source.get("LocalPath", ""))
        for given in request.get("ProcessingOutputConfig", {}).get("Outputs", []):
            if given.get("AppManaged"):
                continue
            if "S3Output" not in given:
                found.append(f"Output {given['OutputName']}: the emulator writes S3Output only.")
            found += _wrong_path(f"Output {given['OutputName']}", given.get("S3Output", {}).get("LocalPath", ""))
        return found


class _Uploads:
    """What goes to S3 while a job runs, and once it has ended well."""

    def __init__(self, world: World, record: Record, hosts: list[Path]) -> None:
        self._world = world
        self._folders = [
            (host_path(opt_ml, local), uri, continuous, dict[str, tuple[int, int]]())
            for local, uri, continuous in _outputs(record)
            for opt_ml in hosts
        ]

    def send(self, continuous: bool) -> None:
        """Send what is new in the outputs of one mode.

        Raises:
            Failed: there is no such bucket.
        """
        for folder, uri, mode, known in self._folders:
            if mode == continuous and folder.is_dir():
                self._world.upload_folder(folder, uri, known)


def _outputs(record: Record) -> list[tuple[str, str, bool]]:
    """Local path, address, and whether it is uploaded while the job runs, of all that SageMaker uploads."""
    given = record.get("ProcessingOutputConfig", {}).get("Outputs", [])
    found = [output["S3Output"] for output in given if not output.get("AppManaged")]
    return [(o["LocalPath"], o["S3Uri"], o["S3UploadMode"] == "Continuous") for o in found]


def _wrong_path(what: str, path: str) -> list[str]:
    if f"{path}/".startswith(_LOCAL) and ".." not in path.split("/"):
        return []
    return [f"{what}: LocalPath must begin with {_LOCAL}"]
