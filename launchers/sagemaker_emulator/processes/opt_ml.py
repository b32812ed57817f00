"""A training job's /opt/ml: inputs before the job, uploads during and after it."""

from collections.abc import Callable
from pathlib import Path

from sagemaker_emulator.errors import JobFailed
from sagemaker_emulator.processes.containers import Containers, host_path
from sagemaker_emulator.storage.atomic_files import write_json
from sagemaker_emulator.storage.records import Record
from sagemaker_emulator.storage.transfers import Transfers, join_uri, split_uri

_FOLDERS = ("input/config", "input/data", "model", "output/data", "output/tensors", "checkpoints", "code")


def prepare(
    transfers: Transfers, containers: Containers, record: Record, folder: Path, enter: Callable[[str], None]
) -> list[Path]:
    """Make one /opt/ml per instance, with configuration, channels and checkpoints.

    Args:
        transfers: downloads the channels and checkpoints.
        containers: will run the job.
        record: of the job.
        folder: a new folder for them.
        enter: called with the job's secondary status.

    Returns:
        the folders for /opt/ml, in the order of instances.

    Raises:
        JobFailed: a bucket or a channel's objects are missing.
    """
    output = record["OutputDataConfig"]["S3OutputPath"]
    if not transfers.has_bucket(split_uri(output)[0]):
        raise JobFailed(f"ClientError: Artifact upload failed:NoSuchBucket (404): there is no bucket of {output}")
    enter("Downloading")
    count = record["ResourceConfig"]["InstanceCount"]
    hosts = containers.make_hosts(folder, count)
    for number, (current, opt_ml) in enumerate(hosts.items()):
        for name in _FOLDERS:
            (opt_ml / name).mkdir(parents=True)
        _configure(record, opt_ml, list(hosts), current, containers)
        for channel in record.get("InputDataConfig", []):
            _download(transfers, channel, opt_ml / "input" / "data" / channel["ChannelName"], number, count)
        if checkpoints := record.get("CheckpointConfig"):
            restored = host_path(opt_ml, checkpoints.get("LocalPath", "/opt/ml/checkpoints"))
            restored.mkdir(parents=True, exist_ok=True)
            uri = checkpoints["S3Uri"].rstrip("/") + "/"
            if not transfers.has_bucket(split_uri(uri)[0]):
                raise JobFailed(
                    f"ClientError: Checkpoint download failed:NoSuchBucket (404): there is no bucket of {uri}"
                )
            if transfers.keys(*split_uri(uri)):
                transfers.fetch(transfers.list(uri), restored)
    return list(hosts.values())


def _configure(record: Record, opt_ml: Path, names: list[str], name: str, containers: Containers) -> None:
    """Write /opt/ml/input/config."""
    algorithm, instance = record["AlgorithmSpecification"], record["ResourceConfig"]["InstanceType"]
    group = {"instance_group_name": "homogeneousCluster", "instance_type": instance, "hosts": names}
    channels = {}
    for channel in record.get("InputDataConfig", []):
        source = channel["DataSource"]["S3DataSource"]
        channels[channel["ChannelName"]] = {
            "TrainingInputMode": channel.get("InputMode", algorithm["TrainingInputMode"]),
            "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
            "RecordWrapperType": channel.get("RecordWrapperType", "None"),
        } | ({"ContentType": channel["ContentType"]} if channel.get("ContentType") else {})
    config = {
        "hyperparameters": record.get("HyperParameters", {}),
        "inputdataconfig": channels,
        "resourceconfig": {
            "current_host": name,
            "current_instance_type": instance,
            "current_group_name": "homogeneousCluster",
            "hosts": names,
            "instance_groups": [group],
            "network_interface_name": "lo",
        },
    }
    if hook := record.get("DebugHookConfig"):
        local = hook.get("LocalPath", "/opt/ml/output/tensors")
        host_path(opt_ml, local)
        config["debughookconfig"] = hook | {"LocalPath": containers.translate(local, opt_ml)}
    if profiler := record.get("ProfilerConfig"):
        config["profilerconfig"] = profiler | {"LocalPath": containers.translate("/opt/ml/output/profiler", opt_ml)}
    for file, content in config.items():
        write_json(opt_ml / "input" / "config" / f"{file}.json", content)


def _download(transfers: Transfers, channel: Record, folder: Path, number: int, count: int) -> None:
    """Copy a channel's objects, also for FastFile, which AWS streams."""
    source = channel["DataSource"]["S3DataSource"]
    manifest = source["S3DataType"] == "ManifestFile"
    objects = (transfers.list_manifest if manifest else transfers.list)(source["S3Uri"])
    if source.get("S3DataDistributionType") == "ShardedByS3Key":
        objects = objects[number::count]
    transfers.fetch(objects, folder)


class Uploads:
    """Uploads to S3 during and after a job."""

    def __init__(self, transfers: Transfers, record: Record, hosts: list[Path]) -> None:
        self._transfers, self._hosts = transfers, hosts
        name = record["TrainingJobName"]
        self._folders: list[tuple[Path, str, dict[str, tuple[int, int]]]] = []
        kinds = (  # AWS's default paths
            ("CheckpointConfig", "S3Uri", "/opt/ml/checkpoints", ()),
            ("DebugHookConfig", "S3OutputPath", "/opt/ml/output/tensors", (name, "debug-output")),
            ("TensorBoardOutputConfig", "S3OutputPath", "/opt/ml/output/tensorboard", (name, "tensorboard-output")),
            ("ProfilerConfig", "S3OutputPath", "/opt/ml/output/profiler", (name, "profiler-output")),
        )
        for member, uri, default, beneath in kinds:
            output = record.get(member, {})
            if uri in output:
                for opt_ml in hosts:
                    local = host_path(opt_ml, output.get("LocalPath", default))
                    self._folders.append((local, join_uri(output[uri], *beneath), {}))

    def sync(self) -> None:
        """Upload new files of the folders that AWS watches: checkpoints, tensors, TensorBoard's files, profiles.

        Raises:
            JobFailed: there is no such bucket.
        """
        for folder, uri, known in self._folders:
            if folder.is_dir():
                self._transfers.upload_folder(folder, uri, known)

    def artifacts(self, record: Record) -> None:
        """Upload the first instance's model and output/data.

        Raises:
            JobFailed: there is no such bucket.
        """
        config = record["OutputDataConfig"]
        base = join_uri(config["S3OutputPath"], record["TrainingJobName"], "output")
        for folder, name in ((self._hosts[0] / "model", "model"), (self._hosts[0] / "output" / "data", "output")):
            if not folder.is_dir() or not any(folder.iterdir()):
                continue
            if config.get("CompressionType") == "NONE":
                self._transfers.upload_folder(folder, f"{base}/{name}")
            else:
                self._transfers.upload_tar(folder, f"{base}/{name}.tar.gz")
