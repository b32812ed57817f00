"""Requests to SageMaker as plain dicts from pure functions, validated against AWS's service model."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sagehound.cli.hyperparameters import encode
from sagehound.config import Train
from sagehound.errors import ConfigError
from sagehound.metrics import of_epoch
from sagehound.system.console import FINDINGS_METRIC, metric_regex
from sagehound_launchers.config import Aws, Launch
from sagehound_launchers.config.schema import LaunchWithStages
from sagehound_launchers.search.space import SearchSpace, to_sagemaker
from sagemaker_emulator.request_validation import problems

TAG = "sagehound"  # tag of everything that is created; its value is an endpoint's name, or the kind of a job
REQUEST = "SAGEHOUND_REQUEST"  # environment variable that identifies a job of this command
_TRAIN, _LAUNCH = ({f.name for f in dataclasses.fields(schema)} for schema in (Train, LaunchWithStages))
_OURS = {*(_LAUNCH - _TRAIN), "hydra", "best", "cache", "overwrite"}  # keys that have no meaning in a container
_THERE = {"data.root", "data.s3", "backbone.weights", "trainer.num_nodes"}  # keys that a container sets itself
_MOST_SEED = 2**31  # largest Integer of AWS
_MOST_PROCESSING = 5 * 24 * 3600  # seconds of a processing job: AWS's limit


@dataclass(frozen=True)
class Account:
    """The values of an AWS account that requests need."""

    region: str
    number: str  # twelve digits
    role: str  # ARN
    bucket: str
    image: str


@dataclass(frozen=True)
class Channel:
    """A folder of a job's container, and its place in S3."""

    name: str
    uri: str  # a prefix, or a manifest
    manifest: bool = False


@dataclass(frozen=True)
class ProcessingInput:
    """What a processing job reads: an object, or all below a prefix, and its folder in the container."""

    name: str
    uri: str
    folder: str


@dataclass(frozen=True)
class ProcessingOutput:
    """What a processing job writes: a folder of the container, and the prefix that it is copied to."""

    uri: str
    folder: str
    mode: str = "EndOfJob"  # or Continuous, so that the results of a failed job are there too
    name: str = "result"


def hyperparameters(overrides: Sequence[str]) -> dict[str, str]:
    """A command's overrides as hyperparameters of a job, under their own names. The last one of a key wins.

    Keys of this machine (stages, aws, data.root, ...) are dropped; pkg:// weights are in the image and are kept.

    Raises:
        ConfigError: an override cannot be used in a job.
    """
    sent = []
    for override in overrides:
        name, _, value = override.partition("=")
        key = name.lstrip("+~")
        if key == "resume" and value not in ("", "null"):
            raise ConfigError("resume= continues a run of this machine: drop it, or drop trainer=sagemaker")
        if key.partition(".")[0].partition("/")[0].partition("@")[0] in _OURS or key == "resume":
            continue
        if (key in _THERE and not value.strip("'\"").startswith("pkg://")) or (key, value) == ("trainer", "sagemaker"):
            continue
        sent.append(override)
    return encode(sent)


def training_job(
    name: str,
    cfg: Launch,
    account: Account,
    given: Mapping[str, str],
    channels: Sequence[Channel],
    token: str,
    debugger: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """CreateTrainingJob.

    Args:
        name: at most 63 characters, unique in the account and region.
        cfg: the job's config, for what is under aws.
        account: role, bucket and image.
        given: hyperparameters.
        channels: code, photos, weights.
        token: identifies the job as this command's.
        debugger: DebugHookConfig, DebugRuleConfigurations, ...
    """
    findings = [FINDINGS_METRIC] if cfg.debugger and cfg.debugger.name == "local" else []
    return {
        "TrainingJobName": name,
        "HyperParameters": dict(given),
        "AlgorithmSpecification": _algorithm(account, cfg, [*of_epoch(), *findings]),
        **_common(name, cfg, account, channels, token),
        "Tags": tags(cfg.aws, "training"),
        **(debugger or {}),
    }


def tuning_job(
    name: str,
    cfg: Launch,
    account: Account,
    space: SearchSpace,
    given: Mapping[str, str],
    channels: Sequence[Channel],
    token: str,
) -> dict[str, Any]:
    """CreateHyperParameterTuningJob. Arguments as in training_job; ``name`` has at most 32 characters."""
    hpo = cfg.search
    objective = {"Type": hpo.direction.capitalize(), "MetricName": hpo.objective}
    limits = {"MaxParallelTrainingJobs": min(hpo.max_parallel_jobs, hpo.max_jobs)}
    if hpo.strategy != "Grid":  # a grid has one job per point
        limits["MaxNumberOfTrainingJobs"] = hpo.max_jobs
    config: dict[str, Any] = {
        "Strategy": hpo.strategy,
        "HyperParameterTuningJobObjective": objective,
        "ResourceLimits": limits,
        "ParameterRanges": to_sagemaker(space, grid=hpo.strategy == "Grid"),
        # so that a warm start proposes other points than the parents
        "RandomSeed": (cfg.seed + zlib.crc32(",".join(hpo.warm_start).encode()) * bool(hpo.warm_start)) % _MOST_SEED,
    }
    if hpo.strategy == "Hyperband":
        # a line per epoch, one of the best, and one more, because a job that reaches the maximum is stopped
        resources = {"MinResource": 1, "MaxResource": cfg.trainer.max_epochs + 2}
        config["StrategyConfig"] = {"HyperbandStrategyConfig": resources}
    else:
        config["TrainingJobEarlyStoppingType"] = "Auto" if hpo.early_stopping else "Off"
    metrics = dict.fromkeys([*of_epoch(), hpo.objective])
    request: dict[str, Any] = {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": config,
        "TrainingJobDefinition": {
            "StaticHyperParameters": dict(given),
            "AlgorithmSpecification": _algorithm(account, cfg, list(metrics)),
            **_common(name, cfg, account, channels, token),
        },
    }
    if hpo.warm_start:
        parents = [{"HyperParameterTuningJobName": parent} for parent in hpo.warm_start]
        request["WarmStartConfig"] = {
            "ParentHyperParameterTuningJobs": parents,
            "WarmStartType": hpo.warm_start_type,
        }
    request["Tags"] = tags(cfg.aws, "tuning")
    return request


def tags(aws: Aws, of: str) -> list[dict[str, str]]:
    """Sagehound's own tag, whose value is ``of``, and those of aws.tags."""
    return [{"Key": key, "Value": value} for key, value in ({TAG: of} | aws.tags).items()]


def processing_job(
    name: str, aws: Aws, account: Account, inputs: Sequence[ProcessingInput], output: ProcessingOutput, of: str
) -> dict[str, Any]:
    """CreateProcessingJob, without what the container runs.

    Args:
        name: at most 63 characters.
        aws: the machine, the network, the keys and the tags.
        account: role and image.
        inputs: what is copied to the job's disk.
        output: what is copied from it.
        of: the value of Sagehound's tag.
    """
    result = {"S3Uri": output.uri, "LocalPath": output.folder, "S3UploadMode": output.mode}
    request: dict[str, Any] = {
        "ProcessingJobName": name,
        "AppSpecification": {"ImageUri": account.image},
        "RoleArn": account.role,
        "ProcessingInputs": [_processing_input(one) for one in inputs],
        "ProcessingOutputConfig": {
            "Outputs": [{"OutputName": output.name, "S3Output": result}],
            **({"KmsKeyId": aws.kms_key} if aws.kms_key else {}),
        },
        "ProcessingResources": {
            "ClusterConfig": {
                "InstanceCount": 1,
                "InstanceType": aws.instance_type,
                "VolumeSizeInGB": aws.volume_gb,
                **({"VolumeKmsKeyId": aws.disk_key} if aws.disk_key else {}),
            }
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": min(round(aws.max_hours * 3600), _MOST_PROCESSING)},
        "Tags": tags(aws, of),
    }
    if aws.subnets:
        vpc = {"Subnets": list(aws.subnets), "SecurityGroupIds": list(aws.security_groups)}
        request["NetworkConfig"] = {"VpcConfig": vpc}
    return request


def _processing_input(one: ProcessingInput) -> dict[str, Any]:
    source = {"S3Uri": one.uri, "LocalPath": one.folder, "S3DataType": "S3Prefix", "S3InputMode": "File"}
    return {"InputName": one.name, "S3Input": source | {"S3DataDistributionType": "FullyReplicated"}}


def _algorithm(account: Account, cfg: Launch, metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "TrainingImage": account.image,
        "TrainingInputMode": cfg.aws.input_mode,
        "MetricDefinitions": [{"Name": name, "Regex": metric_regex(name)} for name in metrics],
    }


def _common(name: str, cfg: Launch, account: Account, channels: Sequence[Channel], token: str) -> dict[str, Any]:
    """The common members of a training job and a tuning job's definition."""
    aws, base = cfg.aws, f"s3://{account.bucket}/{cfg.aws.prefix}"
    kms = {"KmsKeyId": aws.kms_key} if aws.kms_key else {}
    stopping = {"MaxRuntimeInSeconds": round(aws.max_hours * 3600)}
    parts: dict[str, Any] = {
        "RoleArn": account.role,
        "InputDataConfig": [_channel(c, aws.input_mode) for c in channels],
        "OutputDataConfig": {"S3OutputPath": f"{base}/jobs", **kms},
        "ResourceConfig": {
            "InstanceType": aws.instance_type,
            "InstanceCount": aws.instance_count,
            "VolumeSizeInGB": aws.volume_gb,
            **({"VolumeKmsKeyId": aws.disk_key} if aws.disk_key else {}),
        },
        "StoppingCondition": stopping,
        "Environment": {**aws.environment, REQUEST: token},
    }
    if aws.spot:
        parts["EnableManagedSpotTraining"] = True
        stopping["MaxWaitTimeInSeconds"] = round((aws.max_wait_hours or 2 * aws.max_hours) * 3600)
        parts["CheckpointConfig"] = {"S3Uri": f"{base}/checkpoints/{name}"}
    if aws.subnets:
        parts["VpcConfig"] = {"Subnets": list(aws.subnets), "SecurityGroupIds": list(aws.security_groups)}
    return parts


def _channel(channel: Channel, mode: str) -> dict[str, Any]:
    source = {
        "S3DataType": "ManifestFile" if channel.manifest else "S3Prefix",
        "S3Uri": channel.uri,
        "S3DataDistributionType": "FullyReplicated",
    }
    part = {"ChannelName": channel.name, "DataSource": {"S3DataSource": source}}
    return part | {"InputMode": mode if channel.name == "photos" and not channel.manifest else "File"}


def check(operation: str, request: dict[str, Any]) -> None:
    """Validate a request against AWS's service model.

    Raises:
        ConfigError: the first problem, in AWS's terms.
    """
    faults = [p for p in problems(operation, request) if p != "Parameter validation failed:"]
    if faults:
        raise ConfigError(f"{operation}, which SageMaker would refuse: {faults[0]}")
