"""Requests to SageMaker as plain dicts from pure functions, held against AWS's own rules before they are sent."""

import dataclasses
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sagehound.config import Train
from sagehound.console import metric_regex
from sagehound.errors import ConfigError
from sagehound.hyperparameters import encode
from sagehound.metrics import of_epoch
from sagehound_launchers.config import Launch
from sagehound_launchers.sagemaker.shapes import problems
from sagehound_launchers.schema import LaunchWithStages
from sagehound_launchers.search_space import SearchSpace, to_sagemaker

REQUEST = "SAGEHOUND_REQUEST"  # the variable by which a job that was started is known again
_TRAIN, _LAUNCH = ({f.name for f in dataclasses.fields(schema)} for schema in (Train, LaunchWithStages))
_OURS = {*(_LAUNCH - _TRAIN), "hydra", "best", "cache", "overwrite"}  # what means nothing in a container
_THERE = {"data.root", "data.s3", "backbone.weights", "trainer.num_nodes"}  # what a container finds out by itself
_LOCAL_DISKS = re.compile(r"ml\.(g4dn|g5|g6e?|p3dn|p4de?|p5e?n?|trn\w+|\w+d)\.")  # encrypted by their hardware
_MOST_SEED = 2**31  # that an Integer of AWS's holds


@dataclass(frozen=True)
class Account:
    """What every request names of an AWS account."""

    region: str
    number: str  # twelve digits
    role: str  # ARN
    bucket: str
    image: str


@dataclass(frozen=True)
class Channel:
    """A folder of a job's container and where in S3 it comes from."""

    name: str
    uri: str  # a prefix, or a manifest
    manifest: bool = False


def hyperparameters(overrides: Sequence[str]) -> dict[str, str]:
    """Overrides of a command as a job's hyperparameters, under their own names; the last of a key wins.

    What is of this machine (the stages, aws, data.root, ...) stays here; pkg:// weights are the image's own and travel.

    Raises:
        ConfigError: an override has no place in a job.
    """
    sent = []
    for override in overrides:
        name, _, value = override.partition("=")
        key = name.lstrip("+~")
        if key == "resume" and value not in ("", "null"):
            raise ConfigError("resume= goes on with a run of this machine: drop it, or drop trainer=sagemaker")
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
        name: 63 letters at most, unique in the account and region.
        cfg: the job's config, for what is under aws.
        account: role, bucket and image.
        given: hyperparameters.
        channels: code, photos, weights.
        token: marks the job as this command's.
        debugger: DebugHookConfig, DebugRuleConfigurations, ...
    """
    return {
        "TrainingJobName": name,
        "HyperParameters": dict(given),
        "AlgorithmSpecification": _algorithm(account, cfg, of_epoch()),
        **_common(name, cfg, account, channels, token),
        **({"Tags": [{"Key": k, "Value": v} for k, v in cfg.aws.tags.items()]} if cfg.aws.tags else {}),
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
    """CreateHyperParameterTuningJob; arguments as for training_job, ``name`` of 32 letters at most."""
    hpo = cfg.search
    objective = {"Type": hpo.direction.capitalize(), "MetricName": hpo.objective}
    limits = {"MaxParallelTrainingJobs": min(hpo.max_parallel_jobs, hpo.max_jobs)}
    if hpo.strategy != "Grid":  # which has as many jobs as it has points
        limits["MaxNumberOfTrainingJobs"] = hpo.max_jobs
    config: dict[str, Any] = {
        "Strategy": hpo.strategy,
        "HyperParameterTuningJobObjective": objective,
        "ResourceLimits": limits,
        "ParameterRanges": to_sagemaker(space, grid=hpo.strategy == "Grid"),
        # after a warm start other points than the parents'
        "RandomSeed": (cfg.seed + zlib.crc32(",".join(hpo.warm_start).encode()) * bool(hpo.warm_start)) % _MOST_SEED,
    }
    if hpo.strategy == "Hyperband":
        # a line an epoch, one of the best in the end, and one more: a job that reaches the last is stopped
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
    if cfg.aws.tags:
        request["Tags"] = [{"Key": k, "Value": v} for k, v in cfg.aws.tags.items()]
    return request


def _algorithm(account: Account, cfg: Launch, metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "TrainingImage": account.image,
        "TrainingInputMode": cfg.aws.input_mode,
        "MetricDefinitions": [{"Name": name, "Regex": metric_regex(name)} for name in metrics],
    }


def _common(name: str, cfg: Launch, account: Account, channels: Sequence[Channel], token: str) -> dict[str, Any]:
    """What a training job and a tuning job's definition of its trials share."""
    aws, base = cfg.aws, f"s3://{account.bucket}/{cfg.aws.prefix}"
    kms = {"KmsKeyId": aws.kms_key} if aws.kms_key else {}
    stopping = {"MaxRuntimeInSeconds": round(aws.max_hours * 3600)}
    found: dict[str, Any] = {
        "RoleArn": account.role,
        "InputDataConfig": [_channel(c, aws.input_mode) for c in channels],
        "OutputDataConfig": {"S3OutputPath": f"{base}/jobs", **kms},
        "ResourceConfig": {
            "InstanceType": aws.instance_type,
            "InstanceCount": aws.instance_count,
            "VolumeSizeInGB": aws.volume_gb,
            # AWS refuses a key for disks of the machine itself
            **({"VolumeKmsKeyId": aws.kms_key} if aws.kms_key and not _LOCAL_DISKS.match(aws.instance_type) else {}),
        },
        "StoppingCondition": stopping,
        "Environment": {**aws.environment, REQUEST: token},
    }
    if aws.spot:
        found["EnableManagedSpotTraining"] = True
        stopping["MaxWaitTimeInSeconds"] = round((aws.max_wait_hours or 2 * aws.max_hours) * 3600)
        found["CheckpointConfig"] = {"S3Uri": f"{base}/checkpoints/{name}"}
    if aws.subnets:
        found["VpcConfig"] = {"Subnets": list(aws.subnets), "SecurityGroupIds": list(aws.security_groups)}
    return found


def _channel(channel: Channel, mode: str) -> dict[str, Any]:
    source = {
        "S3DataType": "ManifestFile" if channel.manifest else "S3Prefix",
        "S3Uri": channel.uri,
        "S3DataDistributionType": "FullyReplicated",
    }
    found = {"ChannelName": channel.name, "DataSource": {"S3DataSource": source}}
    return found | {"InputMode": mode if channel.name == "photos" and not channel.manifest else "File"}


def check(operation: str, request: dict[str, Any]) -> None:
    """Hold a request against AWS's model.

    Raises:
        ConfigError: what AWS would refuse first, in its own terms.
    """
    found = [p for p in problems(operation, request) if p != "Parameter validation failed:"]
    if found:
        raise ConfigError(f"{operation}, which SageMaker would refuse: {found[0]}")
