"""`launch permissions`: the least that the caller and the execution role must be allowed.

Resources and condition keys: AWS's Service Authorization Reference for SageMaker, S3, CloudWatch Logs, IAM and ECR.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sagehound.errors import SagehoundError
from sagehound.system import console
from sagehound_launchers.config import Launch
from sagehound_launchers.sagemaker.account import open_session
from sagehound_launchers.sagemaker.permission_actions import ACTIONS
from sagehound_launchers.sagemaker.requests import TAG

SERVICE = "sagemaker.amazonaws.com"
_OPEN = ("List", "FilterLogEvents", "DescribeLogStreams")  # actions that take no resource
_JOBS = ("training-job", "hyper-parameter-tuning-job", "transform-job", "processing-job")
_TAGGED = ("model", "endpoint", "endpoint-config", "model-package-group", "model-package", "pipeline")
_ECR = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/([^:@]+)(?:[:@].*)?")
_PARTITIONS = {"cn": "aws-cn", "us-gov": "aws-us-gov"}  # by the beginning of a region
_STEPS = {  # what a pipeline does with its role
    *("sagemaker:CreateTrainingJob", "sagemaker:DescribeTrainingJob", "sagemaker:StopTrainingJob"),
    *("sagemaker:CreateTransformJob", "sagemaker:DescribeTransformJob", "sagemaker:StopTransformJob"),
    *("sagemaker:CreateModel", "sagemaker:CreateModelPackage", "sagemaker:CreateModelPackageGroup"),
    *("sagemaker:DescribeModelPackageGroup", "sagemaker:AddTags"),
}


@dataclass(frozen=True)
class Scope:
    """What the policies of a command are about."""

    chosen: tuple[str, ...]  # keys of ACTIONS
    region: str  # * for all
    number: str  # of the account
    bucket: str  # for code, photos and results
    prefix: str  # the value of aws.prefix
    reads: tuple[str, ...] = ()  # s3:// of the user's own photos, captures and models
    image: str | None = None  # the value of aws.image
    repository: str = "sagehound"  # that image=ecr pushes to

    @property
    def partition(self) -> str:
        """The beginning of every ARN in this region."""
        return next((name for start, name in _PARTITIONS.items() if self.region.startswith(f"{start}-")), "aws")

    def arn(self, service: str, resource: str, region: str | None = None, number: str | None = None) -> str:
        """The ARN of a resource; those of IAM and S3 have no region."""
        region = {"iam": "", "s3": ""}.get(service, region or self.region)
        number = "" if service == "s3" else number or self.number
        return f"arn:{self.partition}:{service}:{region}:{number}:{resource}"

    @property
    def repositories(self) -> list[str]:
        """The ARN of the image's repository; none if the image is not in ECR."""
        if self.image is None:
            return [self.arn("ecr", f"repository/{self.repository}")]
        match = _ECR.fullmatch(self.image)
        return [self.arn("ecr", f"repository/{match[3]}", match[2], match[1])] if match else []

    @property
    def other_objects(self) -> list[str]:
        """The ARNs of the user's own objects."""
        return sorted(
            {self.arn("s3", f"{uri.removeprefix('s3://')}{'*' if '/' in uri[5:] else '/*'}") for uri in self.reads}
        )

    @property
    def buckets(self) -> list[str]:
        """The ARNs of the buckets that are listed."""
        names = {self.bucket, *(uri.removeprefix("s3://").partition("/")[0] for uri in self.reads)}
        return [self.arn("s3", name) for name in sorted(names)]


def show(cfg: Launch) -> None:
    """Print the policies for what the command chooses; for everything, if it chooses nothing."""
    region, number = "*", "ACCOUNT"
    try:
        session = open_session(cfg.aws)
        region, number = session.region, str(session.client("sts").get_caller_identity()["Account"])
    except SagehoundError as error:
        console.warn(f"{error}; until then the policies say ACCOUNT")
    scope = scope_of(cfg, region, number)
    content = {"caller": caller(scope), "role": role(cfg, scope), "trust of the role": trust()}
    console.info(json.dumps(content, indent=2))


def scope_of(cfg: Launch, region: str, number: str) -> Scope:
    """The scope of a command in an account."""
    captured = [own.captured for stage, own in cfg.stages if stage.name == "monitor"]
    given = [cfg.data.s3, *captured, *cfg.models]
    return Scope(
        tuple(parts(cfg)),
        region,
        number,
        cfg.aws.bucket or f"sagemaker-{region}-{number}",
        cfg.aws.prefix,
        tuple(uri for uri in given if uri and uri.startswith("s3://")),
        cfg.aws.image,
        next((own.repository for stage, own in cfg.stages if stage.name == "image"), "sagehound"),
    )


def parts(cfg: Launch) -> list[str]:
    """The keys of ACTIONS that a command needs."""
    stages = {stage.name: own for stage, own in cfg.stages if own.name != "local"}
    chosen = [name for name in ACTIONS if name in stages]
    if any(stage.name == "monitor" and own.name == "local" and own.captured for stage, own in cfg.stages):
        chosen.append("captures")
    if cfg.trainer.name == "sagemaker":
        chosen.append("train")
    if cfg.hpo is not None and cfg.hpo.name == "sagemaker":
        chosen.append("search")
    if "deploy" in stages:
        chosen += ["predict", "list and delete"]
    elif "probe" in stages:
        chosen.append("predict")
    return chosen or list(ACTIONS)


def actions(chosen: Iterable[str]) -> set[str]:
    """The actions of the caller."""
    return set().union(*(ACTIONS[name] for name in chosen))


def caller(scope: Scope) -> dict[str, Any]:
    """The policy of whoever runs `sagehound launch`."""
    wanted = actions(scope.chosen)
    if scope.image:
        wanted.discard("ecr:DescribeImages")
    jobs = [scope.arn("sagemaker", f"{kind}/sagehound-*") for kind in _JOBS]
    tagged = [scope.arn("sagemaker", f"{kind}/*") for kind in _TAGGED]
    of_sagemaker = {a for a in wanted if a.startswith("sagemaker:") and not a.split(":")[1].startswith(_OPEN)}
    of_jobs = {a for a in of_sagemaker if a.endswith("Job")}
    # a version of a group cannot have tags
    packages = wanted & {"sagemaker:CreateModelPackage"}
    creates = {a for a in of_sagemaker - packages if a.split(":")[1].startswith(("Create", "AddTags"))}
    statements = [
        _allow("Jobs", of_jobs | (wanted & {"sagemaker:AddTags"} if of_jobs else set()), jobs),
        _allow(
            "Create",
            {a for a in creates if not a.endswith("Job")},
            tagged,
            {"StringLike": {f"aws:RequestTag/{TAG}": "*"}} if creates else None,
        ),
        _allow("Use", {a for a in of_sagemaker - creates if not a.endswith("Job")}, tagged),
        _allow("Lists", {a for a in wanted if a.split(":")[1].startswith("List") and a != "s3:ListBucket"}, ["*"]),
        _allow("Bucket", wanted & {"s3:CreateBucket"}, [scope.arn("s3", scope.bucket)]),
        _allow("Buckets", wanted & {"s3:ListBucket"}, scope.buckets),
        _allow(
            "Objects",
            {a for a in wanted if a.endswith("Object")},
            [scope.arn("s3", f"{scope.bucket}/{scope.prefix}/*")],
        ),
        _allow("Captures", {"s3:GetObject"} if "captures" in scope.chosen else (), scope.other_objects),
        _allow("Logs", {a for a in wanted if a.startswith("logs:")}, [_logs(scope)]),
        *_of_images(scope, wanted),
        _allow("Who", wanted & {"sts:GetCallerIdentity"}, ["*"]),
        *_of_roles(scope, wanted),
        _allow("Scaling", {a for a in wanted if a.startswith(("application-autoscaling:", "cloudwatch:"))}, ["*"]),
    ]
    return _policy(statements)


def _of_images(scope: Scope, wanted: set[str]) -> list[dict[str, Any]]:
    login = wanted & {"ecr:GetAuthorizationToken"}
    of_repository = {a for a in wanted - login if a.startswith("ecr:")}
    return [_allow("Image", of_repository, scope.repositories), _allow("Registry", login, ["*"])]


def _of_roles(scope: Scope, wanted: set[str]) -> list[dict[str, Any]]:
    scaling = "sagemaker.application-autoscaling.amazonaws.com"
    return [
        _allow("Role", wanted & {"iam:GetRole"}, [scope.arn("iam", "role/*")]),
        _allow(
            "PassRole",
            wanted & {"iam:PassRole"},
            [scope.arn("iam", "role/*")],
            {"StringEquals": {"iam:PassedToService": SERVICE}},
        ),
        _allow(
            "ScalingRole",
            wanted & {"iam:CreateServiceLinkedRole"},
            [scope.arn("iam", f"role/aws-service-role/{scaling}/*")],
            {"StringLike": {"iam:AWSServiceName": scaling}},
        ),
    ]


def role(cfg: Launch, scope: Scope) -> dict[str, Any]:
    """The policy of the execution role, with which jobs and endpoints run."""
    writes = {"logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"}
    pulls = {"ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}
    clarify = [scope.arn("ecr", "repository/sagemaker-clarify-processing", number="*")]  # AWS's account
    statements = [
        _allow("Objects", {"s3:GetObject", "s3:PutObject"}, [scope.arn("s3", f"{scope.bucket}/*")]),
        _allow("Reads", {"s3:GetObject"}, scope.other_objects),
        _allow("Buckets", {"s3:ListBucket"}, scope.buckets),
        _allow("Logs", writes, [_logs(scope)]),
        _allow(
            "Metrics",
            {"cloudwatch:PutMetricData"},
            ["*"],
            {"StringLike": {"cloudwatch:namespace": ["/aws/sagemaker/*", "AWS/SageMaker"]}},
        ),
        _allow("Image", pulls, [*scope.repositories, *(clarify if "bias" in scope.chosen else [])]),
        _allow("Registry", {"ecr:GetAuthorizationToken"}, ["*"]),
    ]
    if "pipeline" in scope.chosen:
        statements.append(_allow("Steps", _STEPS, [scope.arn("sagemaker", "*")]))
        condition = {"StringEquals": {"iam:PassedToService": SERVICE}}
        statements.append(_allow("PassRole", {"iam:PassRole"}, [scope.arn("iam", "role/*")], condition))
    if cfg.aws.kms_key:
        keys = {"kms:Decrypt", "kms:GenerateDataKey", "kms:CreateGrant", "kms:DescribeKey"}
        statements.append(_allow("Key", keys, [scope.arn("kms", "key/*")]))
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


def _logs(scope: Scope) -> str:
    return scope.arn("logs", "log-group:/aws/sagemaker/*")


def _allow(
    name: str, wanted: Iterable[str], resources: list[str], condition: dict[str, Any] | None = None
) -> dict[str, Any]:
    statement = {"Sid": name, "Effect": "Allow", "Action": sorted(wanted), "Resource": resources}
    return statement | ({"Condition": condition} if condition else {})


def _policy(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [s for s in statements if s["Action"] and s["Resource"]]}
