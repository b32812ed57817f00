"""A training job's /opt/ml: what SageMaker puts there before the job, and what it takes from there."""

from collections.abc import Callable
from pathlib import Path

from sagehound.files import write_json
from sagehound_launchers.emulator.processes import host_path
from sagehound_launchers.emulator.world import Failed, Record, World, join_uri, split_uri

_FOLDERS = ("input/config", "input/data", "model", "output/data", "output/tensors", "checkpoints", "code")


def prepare(world: World, record: Record, folder: Path, enter: Callable[[str], None]) -> list[Path]:
    """Make one /opt/ml for each instance, with its configuration, its channels and its checkpoints.

    Args:
        world: the emulator.
        record: the job's.
        folder: a new folder, to hold them.
        enter: told of the job's secondary status.

    Returns:
        the folders that stand for /opt/ml, the first instance's first.

    Raises:
        Failed: a bucket or a channel's objects are missing.
    """
    output = record["OutputDataConfig"]["S3OutputPath"]
    if not world.objects.has_bucket(split_uri(output)[0]):
        raise Failed(f"ClientError: Artifact upload failed:NoSuchBucket (404): there is no bucket of {output}")
    enter("Downloading")
    count = record["ResourceConfig"]["InstanceCount"]
    names = [f"127.0.0.{i + 1}" for i in range(count)]  # names that resolve everywhere
    hosts = [folder / name / "ml" for name in names]
    for number, opt_ml in enumerate(hosts):
        for name in _FOLDERS:
            (opt_ml / name).mkdir(parents=True)
        _configure(record, opt_ml, names, names[number])
        for channel in record.get("InputDataConfig", []):
            _download(world, channel, opt_ml / "input" / "data" / channel["ChannelName"], number, count)
        if checkpoints := record.get("CheckpointConfig"):
            restored = host_path(opt_ml, checkpoints.get("LocalPath", "/opt/ml/checkpoints"))
            restored.mkdir(parents=True, exist_ok=True)
            uri = checkpoints["S3Uri"].rstrip("/") + "/"
            if not world.objects.has_bucket(split_uri(uri)[0]):
                raise Failed(f"ClientError: Checkpoint download failed:NoSuchBucket (404): there is no bucket of {uri}")
            if world.objects.keys(*split_uri(uri)):
                world.fetch(world.list_objects(uri), restored)
    return hosts


def _configure(record: Record, opt_ml: Path, names: list[str], name: str) -> None:
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
        local = host_path(opt_ml, hook.get("LocalPath", "/opt/ml/output/tensors"))
        config["debughookconfig"] = hook | {"LocalPath": str(local)}
    if profiler := record.get("ProfilerConfig"):
        config["profilerconfig"] = profiler | {"LocalPath": str(opt_ml / "output" / "profiler")}
    for file, content in config.items():
        write_json(opt_ml / "input" / "config" / f"{file}.json", content)


def _download(world: World, channel: Record, folder: Path, number: int, count: int) -> None:
    """Copy a channel's objects; FastFile's too, which AWS would stream."""
    source = channel["DataSource"]["S3DataSource"]
    manifest = source["S3DataType"] == "ManifestFile"
    objects = (world.list_manifest if manifest else world.list_objects)(source["S3Uri"])
    if source.get("S3DataDistributionType") == "ShardedByS3Key":
        objects = objects[number::count]
    world.fetch(objects, folder)


class Uploads:
    """What goes to S3 while a job runs, and once it has ended."""

    def __init__(self, world: World, record: Record, hosts: list[Path]) -> None:
        self._world, self._hosts = world, hosts
        name = record["TrainingJobName"]
        self._folders: list[tuple[Path, str, dict[str, tuple[int, int]]]] = []
        kinds = (  # AWS's places, where the request names none
            ("CheckpointConfig", "S3Uri", "/opt/ml/checkpoints", ()),
            ("DebugHookConfig", "S3OutputPath", "/opt/ml/output/tensors", (name, "debug-output")),
            ("TensorBoardOutputConfig", "S3OutputPath", "/opt/ml/output/tensorboard", (name, "tensorboard-output")),
            ("ProfilerConfig", "S3OutputPath", "/opt/ml/output/profiler", (name, "profiler-output")),
        )
        for member, uri, default, beneath in kinds:
            asked = record.get(member, {})
            if uri in asked:
                for opt_ml in hosts:
                    local = host_path(opt_ml, asked.get("LocalPath", default))
                    self._folders.append((local, join_uri(asked[uri], *beneath), {}))

    def sync(self) -> None:
        """Send what is new in the folders that AWS watches: checkpoints, tensors, TensorBoard's files, profiles.

        Raises:
            Failed: there is no such bucket.
        """
        for folder, uri, known in self._folders:
            if folder.is_dir():
                self._world.upload_folder(folder, uri, known)

    def artifacts(self, record: Record) -> None:
        """Send the first instance's model and its output/data.

        Raises:
            Failed: there is no such bucket.
        """
        config = record["OutputDataConfig"]
        base = join_uri(config["S3OutputPath"], record["TrainingJobName"], "output")
        for folder, name in ((self._hosts[0] / "model", "model"), (self._hosts[0] / "output" / "data", "output")):
            if not folder.is_dir() or not any(folder.iterdir()):
                continue
            if config.get("CompressionType") == "NONE":
                self._world.upload_folder(folder, f"{base}/{name}")
            else:
                self._world.upload_tar(folder, f"{base}/{name}.tar.gz")
