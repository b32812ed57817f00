"""`launch permissions`: the least that the caller and the execution role must be allowed.

ACTIONS holds, for each part of Sagehound, the actions that its code calls. A test records every call of the parts and
compares. Resources and condition keys: AWS's Service Authorization Reference for SageMaker, S3, CloudWatch Logs, IAM
and ECR.
"""

import json
from collections.abc import Iterable
from typing import Any

from sagehound.errors import SagehoundError
from sagehound.system import console
from sagehound_launchers.config import Launch
from sagehound_launchers.sagemaker.account import open_session
from sagehound_launchers.sagemaker.requests import TAG

SERVICE = "sagemaker.amazonaws.com"
_CONNECT = {
    *("sts:GetCallerIdentity", "iam:GetRole", "iam:PassRole", "ecr:DescribeImages"),
    *("s3:ListBucket", "s3:CreateBucket"),
}
_FILES = {"s3:GetObject", "s3:PutObject", "s3:ListBucket"}
_LOG = {"logs:DescribeLogStreams", "logs:GetLogEvents"}
_MODEL = {"sagemaker:CreateModel", "sagemaker:DeleteModel", "sagemaker:AddTags"}
ACTIONS: dict[str, set[str]] = {  # by what is chosen
    "train": _CONNECT
    | _FILES
    | _LOG
    | {
        "sagemaker:CreateTrainingJob",
        "sagemaker:DescribeTrainingJob",
        "sagemaker:StopTrainingJob",
        "sagemaker:AddTags",
    },
    "search": _CONNECT
    | _FILES
    | {
        *("sagemaker:CreateHyperParameterTuningJob", "sagemaker:DescribeHyperParameterTuningJob"),
        *("sagemaker:StopHyperParameterTuningJob", "sagemaker:ListTrainingJobsForHyperParameterTuningJob"),
        *("sagemaker:DescribeTrainingJob", "sagemaker:AddTags"),
    },
    "registry": _CONNECT
    | _FILES
    | {
        *("sagemaker:CreateModelPackageGroup", "sagemaker:CreateModelPackage", "sagemaker:ListModelPackages"),
        *("sagemaker:DescribeModelPackage", "sagemaker:UpdateModelPackage", "sagemaker:AddTags"),
    },
    "transform": _CONNECT
    | _FILES
    | _LOG
    | _MODEL
    | {
        *("sagemaker:CreateTransformJob", "sagemaker:DescribeTransformJob", "logs:FilterLogEvents"),
        "s3:DeleteObject",  # photos that are no longer in the folder
    },
    "bias": _CONNECT
    | _FILES
    | _LOG
    | {
        *("sagemaker:CreateProcessingJob", "sagemaker:DescribeProcessingJob", "sagemaker:StopProcessingJob"),
        "sagemaker:AddTags",
    },
    "deploy": _CONNECT
    | _FILES
    | _LOG
    | _MODEL
    | {
        *("sagemaker:CreateEndpointConfig", "sagemaker:CreateEndpoint", "sagemaker:UpdateEndpoint"),
        *("sagemaker:DescribeEndpoint", "sagemaker:DeleteEndpoint", "sagemaker:DeleteEndpointConfig"),
        *("sagemaker:ListTags", "application-autoscaling:RegisterScalableTarget"),
        *("application-autoscaling:PutScalingPolicy", "application-autoscaling:DescribeScalableTargets"),
        *("application-autoscaling:DeregisterScalableTarget", "iam:CreateServiceLinkedRole"),
        *("cloudwatch:PutMetricAlarm", "cloudwatch:DescribeAlarms", "cloudwatch:DeleteAlarms"),
    },
    "predict": {
        *("sagemaker:InvokeEndpoint", "sagemaker:InvokeEndpointAsync", "sagemaker:DescribeEndpoint"),
        *("sagemaker:DescribeEndpointConfig", "s3:GetObject", "s3:PutObject", "s3:ListBucket"),
    },
    "list and delete": {
        *("sagemaker:ListEndpoints", "sagemaker:ListEndpointConfigs", "sagemaker:ListModels", "sagemaker:ListTags"),
        *("sagemaker:ListTrainingJobs", "sagemaker:ListHyperParameterTuningJobs", "sagemaker:ListProcessingJobs"),
        *("sagemaker:ListTransformJobs", "sagemaker:DescribeEndpoint", "sagemaker:DescribeEndpointConfig"),
        *("sagemaker:DescribeModel", "sagemaker:DescribeTrainingJob", "sagemaker:DescribeHyperParameterTuningJob"),
        *("sagemaker:DescribeProcessingJob", "sagemaker:DescribeTransformJob", "sagemaker:DeleteEndpoint"),
        *("sagemaker:DeleteEndpointConfig", "sagemaker:DeleteModel", "sagemaker:StopTrainingJob"),
        *("sagemaker:StopHyperParameterTuningJob", "sagemaker:StopProcessingJob", "sagemaker:StopTransformJob"),
        *("application-autoscaling:DescribeScalableTargets", "application-autoscaling:DeregisterScalableTarget"),
        "cloudwatch:GetMetricStatistics",
        "s3:DeleteObject",  # a model of a multi-model endpoint
    },
}
_OPEN = ("List", "FilterLogEvents", "DescribeLogStreams")  # actions that take no resource
_JOBS = ("training-job", "hyper-parameter-tuning-job", "transform-job", "processing-job")
_TAGGED = ("model", "endpoint", "endpoint-config", "model-package-group", "model-package")


def show(cfg: Launch) -> None:
    """Print the policies for what the command chooses; for everything, if it chooses nothing."""
    region, number = "*", "ACCOUNT"
    try:
        session = open_session(cfg.aws)
        region, number = session.region, str(session.client("sts").get_caller_identity()["Account"])
    except SagehoundError as error:
        console.warn(f"{error}; until then the policies say ACCOUNT")
    bucket = cfg.aws.bucket or f"sagemaker-{region}-{number}"
    chosen = parts(cfg)
    content = {
        "caller": caller(chosen, region, number, bucket, cfg.aws.prefix),
        "role": role(cfg, region, number, bucket),
        "trust of the role": trust(),
    }
    console.info(json.dumps(content, indent=2))


def parts(cfg: Launch) -> list[str]:
    """The keys of ACTIONS that a command needs."""
    stages = {stage.name for stage, own in cfg.stages if stage.sends(own)}
    chosen = [name for name in ACTIONS if name in stages]
    if cfg.trainer.name == "sagemaker":
        chosen.append("train")
    if cfg.hpo is not None and cfg.hpo.name == "sagemaker":
        chosen.append("search")
    if "deploy" in stages:
        chosen += ["predict", "list and delete"]
    return chosen or list(ACTIONS)


def actions(chosen: Iterable[str]) -> set[str]:
    """The actions of the caller."""
    return set().union(*(ACTIONS[name] for name in chosen))


def caller(chosen: Iterable[str], region: str, number: str, bucket: str, prefix: str) -> dict[str, Any]:
    """The policy of whoever runs `sagehound launch`.

    Args:
        chosen: keys of ACTIONS.
        region: of the account; * for all.
        number: of the account.
        bucket: for code, photos and results.
        prefix: the value of aws.prefix.
    """
    wanted = actions(chosen)
    place = f"arn:aws:sagemaker:{region}:{number}"
    jobs = [f"{place}:{kind}/sagehound-*" for kind in _JOBS]
    tagged = [f"{place}:{kind}/*" for kind in _TAGGED]
    of_sagemaker = {a for a in wanted if a.startswith("sagemaker:") and not a.split(":")[1].startswith(_OPEN)}
    is_creating = ("Create", "AddTags")
    creates = {a for a in of_sagemaker if a.split(":")[1].startswith(is_creating)}
    statements = [
        _allow("Jobs", {a for a in of_sagemaker if a.endswith("Job")} | (wanted & {"sagemaker:AddTags"}), jobs),
        _allow(
            "Create",
            {a for a in creates if not a.endswith("Job")},
            tagged,
            {"StringLike": {f"aws:RequestTag/{TAG}": "*"}} if creates else None,
        ),
        _allow("Use", {a for a in of_sagemaker - creates if not a.endswith("Job")}, tagged),
        _allow("Lists", {a for a in wanted if a.split(":")[1].startswith("List") and a != "s3:ListBucket"}, ["*"]),
        _allow("Bucket", wanted & {"s3:ListBucket", "s3:CreateBucket"}, [f"arn:aws:s3:::{bucket}"]),
        _allow("Objects", {a for a in wanted if a.endswith("Object")}, [f"arn:aws:s3:::{bucket}/{prefix}/*"]),
        _allow("Logs", {a for a in wanted if a.startswith("logs:")}, [_logs(region, number)]),
        _allow("Image", wanted & {"ecr:DescribeImages"}, [f"arn:aws:ecr:{region}:{number}:repository/sagehound"]),
        _allow("Who", wanted & {"sts:GetCallerIdentity"}, ["*"]),
        _allow("Role", wanted & {"iam:GetRole"}, [f"arn:aws:iam::{number}:role/*"]),
        _allow(
            "PassRole",
            wanted & {"iam:PassRole"},
            [f"arn:aws:iam::{number}:role/*"],
            {"StringEquals": {"iam:PassedToService": SERVICE}},
        ),
        _allow("Scaling", {a for a in wanted if a.startswith(("application-autoscaling:", "cloudwatch:"))}, ["*"]),
        _allow(
            "ScalingRole",
            wanted & {"iam:CreateServiceLinkedRole"},
            [f"arn:aws:iam::{number}:role/aws-service-role/sagemaker.application-autoscaling.amazonaws.com/*"],
            {"StringLike": {"iam:AWSServiceName": "sagemaker.application-autoscaling.amazonaws.com"}},
        ),
    ]
    return _policy(statements)


def role(cfg: Launch, region: str, number: str, bucket: str) -> dict[str, Any]:
    """The policy of the execution role, with which jobs and endpoints run."""
    buckets = [bucket, *([cfg.data.s3.removeprefix("s3://").partition("/")[0]] if cfg.data.s3 else [])]
    writes = {"logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"}
    pulls = {"ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}
    statements = [
        _allow("Objects", {"s3:GetObject", "s3:PutObject"}, [f"arn:aws:s3:::{name}/*" for name in buckets]),
        _allow("Buckets", {"s3:ListBucket"}, [f"arn:aws:s3:::{name}" for name in buckets]),
        _allow("Logs", writes, [_logs(region, number)]),
        _allow(
            "Metrics",
            {"cloudwatch:PutMetricData"},
            ["*"],
            {"StringLike": {"cloudwatch:namespace": ["/aws/sagemaker/*", "AWS/SageMaker"]}},
        ),
        _allow("Image", pulls, [f"arn:aws:ecr:{region}:{number}:repository/sagehound"]),
        _allow("Registry", {"ecr:GetAuthorizationToken"}, ["*"]),
    ]
    if cfg.aws.kms_key:
        keys = {"kms:Decrypt", "kms:GenerateDataKey", "kms:CreateGrant", "kms:DescribeKey"}
        statements.append(_allow("Key", keys, [f"arn:aws:kms:{region}:{number}:key/*"]))
    if cfg.aws.subnets:
        network = {
            *("ec2:CreateNetworkInterface", "ec2:CreateNetworkInterfacePermission", "ec2:DeleteNetworkInterface"),
            *("ec2:DeleteNetworkInterfacePermission", "ec2:DescribeNetworkInterfaces", "ec2:DescribeVpcs"),
            *("ec2:DescribeDhcpOptions", "ec2:DescribeSubnets", "ec2:DescribeSecurityGroups"),
        }
        statements.append(_allow("Network", network, ["*"]))
    return _policy(statements)


def trust() -> dict[str, Any]:
    """Who may assume the execution role."""
    statement = {"Effect": "Allow", "Principal": {"Service": SERVICE}, "Action": "sts:AssumeRole"}
    return {"Version": "2012-10-17", "Statement": [statement]}


def _logs(region: str, number: str) -> str:
    return f"arn:aws:logs:{region}:{number}:log-group:/aws/sagemaker/*"


def _allow(
    name: str, wanted: Iterable[str], resources: list[str], condition: dict[str, Any] | None = None
) -> dict[str, Any]:
    statement = {"Sid": name, "Effect": "Allow", "Action": sorted(wanted), "Resource": resources}
    return statement | ({"Condition": condition} if condition else {})


def _policy(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [s for s in statements if s["Action"]]}
