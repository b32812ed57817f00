"""What Sagehound has created in the account: `launch list` and `launch delete=NAME`. It is known by its tag."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sagehound.errors import ConfigError, SagehoundError
from sagehound.system import console
from sagehound_launchers.config import Aws
from sagehound_launchers.sagemaker import cost
from sagehound_launchers.sagemaker.account import AwsSession, open_session
from sagehound_launchers.sagemaker.aws_errors import aws_errors, code_of
from sagehound_launchers.sagemaker.hosting_requests import is_ours

_PATIENCE = 600.0  # seconds for deletions and stops to be finished
_KINDS = {  # boto3's list_ and stop_ or delete_ operations: the summary's stem, the arguments
    "endpoint": ("list_endpoints", "Endpoints", "Endpoint", {}),
    "endpoint configuration": ("list_endpoint_configs", "EndpointConfigs", "EndpointConfig", {}),
    "model": ("list_models", "Models", "Model", {}),
    "training job": ("list_training_jobs", "TrainingJobSummaries", "TrainingJob", {"StatusEquals": "InProgress"}),
    "tuning job": (
        "list_hyper_parameter_tuning_jobs",
        "HyperParameterTuningJobSummaries",
        "HyperParameterTuningJob",
        {"StatusEquals": "InProgress"},
    ),
    "processing job": (
        "list_processing_jobs",
        "ProcessingJobSummaries",
        "ProcessingJob",
        {"StatusEquals": "InProgress"},
    ),
    "transform job": ("list_transform_jobs", "TransformJobSummaries", "TransformJob", {"StatusEquals": "InProgress"}),
}


@dataclass(frozen=True)
class Resource:
    """Something that Sagehound has created, and that still exists or runs."""

    kind: str
    name: str
    of: str  # the endpoint it belongs to, or what a job does
    status: str
    created: str
    dollars: float | None  # an hour; None if it is not known, 0 if it costs nothing

    @property
    def price(self) -> str:
        """The cost an hour in words."""
        return "not known" if self.dollars is None else "-" if not self.dollars else f"${self.dollars:g}"


def show(aws: Aws) -> list[Resource]:
    """Print everything that exists or runs, with its cost an hour."""
    resources = list(everything(open_session(aws)))
    if not resources:
        console.info("nothing of Sagehound exists or runs")
        return resources
    rows = [[r.kind, r.name, r.of, r.status, r.created, r.price] for r in resources]
    console.table("On SageMaker", ["what", "name", "of", "status", "created", "an hour"], rows)
    hourly = sum(r.dollars or 0 for r in resources)
    chosen = (*sorted({r.of for r in resources if r.kind == "endpoint"}), "all")[0]
    console.info(f"{len(resources)} in all, ${hourly:g} an hour; to delete: sagehound launch delete={chosen}")
    return resources


def delete(aws: Aws, name: str) -> None:
    """Delete an endpoint with its configurations and models, or all of them and every job that runs.

    Args:
        aws: the keys of the group ``aws``.
        name: an endpoint; ENDPOINT/MODEL, a model of a multi-model endpoint; or all.

    Raises:
        ConfigError: nothing of Sagehound has this name.
        SagehoundError: something is still there.
    """
    session = open_session(aws)
    endpoint, _, model = name.partition("/")
    if model:
        return _delete_model(session, aws, endpoint, model)
    chosen = [r for r in everything(session) if name in ("all", r.of, r.name)]
    if not chosen and name != "all":
        known = ", ".join(sorted({r.of for r in everything(session)})) or "nothing"
        raise ConfigError(f"delete={name}: Sagehound has created nothing of this name; there is {known}")
    for resource in chosen:
        _remove(session, resource)
    left = _left(session, chosen)
    if left:
        raise SagehoundError(f"still there: {', '.join(left)}; sagehound launch list shows them")
    names = ", ".join(f"{r.kind} {r.name}" for r in chosen)
    console.info(f"deleted, nothing of them is left: {names}" if chosen else "there was nothing to delete")
    return None


def everything(session: AwsSession) -> Iterator[Resource]:
    """Yield everything that exists or runs."""
    sagemaker = session.client("sagemaker")
    for kind, (operation, member, stem, arguments) in _KINDS.items():
        with aws_errors(f"listing every {kind}"):
            pages = list(sagemaker.get_paginator(operation).paginate(**arguments))
        for summary in (s for page in pages for s in page[member]):
            of = _owner(session, summary[f"{stem}Arn"])
            if of is None:
                continue
            name, status = summary[f"{stem}Name"], summary.get(f"{stem}Status", "")
            created = summary["CreationTime"].strftime("%Y-%m-%d %H:%M")
            yield Resource(kind, name, of, status, created, _dollars(session, kind, name))


def owner(session: AwsSession, resource: str) -> str | None:
    """The value of our tag of a resource, such as endpoint/NAME; None if it has none."""
    sagemaker = session.client("sagemaker")
    with aws_errors(f"looking at {resource}"):
        name = resource.partition("/")[2]
        return _owner(session, sagemaker.describe_endpoint(EndpointName=name)["EndpointArn"])


def _owner(session: AwsSession, arn: str) -> str | None:
    from botocore.exceptions import ClientError

    with aws_errors(f"looking at the tags of {arn}"):
        try:
            return is_ours(session.client("sagemaker").list_tags(ResourceArn=arn)["Tags"])
        except ClientError as error:
            if code_of(error) != "ValidationException":
                raise
            return None  # deleted meanwhile


def _dollars(session: AwsSession, kind: str, name: str) -> float | None:
    """List price of an hour; 0 for what costs nothing."""
    sagemaker, total = session.client("sagemaker"), 0.0
    if kind in ("model", "endpoint configuration"):
        return 0.0
    with aws_errors(f"looking at {name}"):
        if kind == "endpoint":
            config = sagemaker.describe_endpoint(EndpointName=name).get("EndpointConfigName")
            if config is None:
                return None
            described = sagemaker.describe_endpoint_config(EndpointConfigName=config)
            variants = described["ProductionVariants"] + described.get("ShadowProductionVariants", [])
            machines = [(v.get("InstanceType"), v.get("InitialInstanceCount", 0)) for v in variants]
        elif kind == "training job":
            resources = sagemaker.describe_training_job(TrainingJobName=name)["ResourceConfig"]
            machines = [(resources["InstanceType"], resources["InstanceCount"])]
        elif kind == "transform job":
            resources = sagemaker.describe_transform_job(TransformJobName=name)["TransformResources"]
            machines = [(resources["InstanceType"], resources["InstanceCount"])]
        elif kind == "processing job":
            described = sagemaker.describe_processing_job(ProcessingJobName=name)["ProcessingResources"]
            machines = [(described["ClusterConfig"]["InstanceType"], described["ClusterConfig"]["InstanceCount"])]
        else:
            return 0.0  # its training jobs are listed
    for instance, count in machines:
        if instance is None:  # serverless
            continue
        price = cost.price(instance, session.region)
        if price is None:
            return None
        total += price.dollars * count
    return total


def create(session: AwsSession, operation: str, request: dict[str, Any]) -> bool:
    """Create a model or a configuration whose name follows from its content; returns False if it exists already."""
    from botocore import xform_name
    from botocore.exceptions import ClientError

    name = request[f"{operation.removeprefix('Create')}Name"]
    with aws_errors(f"creating {name}"):
        try:
            getattr(session.client("sagemaker"), xform_name(operation))(**request)
        except ClientError as error:
            if code_of(error) == "ValidationException" and "already exist" in str(error):
                return False
            raise
    return True


def delete_model(session: AwsSession, name: str) -> None:
    """Delete a model; nothing happens if it is gone."""
    _remove(session, Resource("model", name, name, "", "", 0))


def delete_endpoint(session: AwsSession, name: str) -> None:
    """Delete an endpoint and its scaling, and wait until it is gone."""
    _remove(session, Resource("endpoint", name, name, "", "", 0))
    end = time.monotonic() + _PATIENCE
    while _exists(session, "endpoint", name) and time.monotonic() < end:
        time.sleep(0.5 if session.url else 5)


def _remove(session: AwsSession, resource: Resource) -> None:
    """Delete a resource, or stop a job; nothing happens if it is gone."""
    from botocore import xform_name
    from botocore.exceptions import ClientError

    sagemaker, stem = session.client("sagemaker"), _KINDS[resource.kind][2]
    verb = "Stop" if resource.kind.endswith("job") else "Delete"
    with aws_errors(f"deleting {resource.name}"):
        try:
            if resource.kind == "endpoint":
                _unscale(session, resource.name)
            getattr(sagemaker, xform_name(f"{verb}{stem}"))(**{f"{stem}Name": resource.name})
        except ClientError as error:
            if code_of(error) not in ("ValidationException", "ResourceNotFound"):
                raise


def _unscale(session: AwsSession, name: str) -> None:
    """Deregister an endpoint's scaling, which deletes its policies and alarms."""
    scaling = session.client("application-autoscaling")
    ids = [f"endpoint/{name}/variant/main"]
    targets = scaling.describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=ids)["ScalableTargets"]
    for target in targets:
        where = {key: target[key] for key in ("ServiceNamespace", "ResourceId", "ScalableDimension")}
        scaling.deregister_scalable_target(**where)


def _exists(session: AwsSession, kind: str, name: str) -> bool:
    from botocore import xform_name
    from botocore.exceptions import ClientError

    stem = _KINDS[kind][2]
    with aws_errors(f"looking at {name}"):
        try:
            described = getattr(session.client("sagemaker"), xform_name(f"Describe{stem}"))(**{f"{stem}Name": name})
        except ClientError as error:
            if code_of(error) not in ("ValidationException", "ResourceNotFound"):
                raise
            return False
    return not kind.endswith("job") or described[f"{stem}Status"] in ("InProgress", "Stopping")


def _left(session: AwsSession, resources: list[Resource]) -> list[str]:
    """The names of those that are still there after a time."""
    end = time.monotonic() + _PATIENCE
    while True:
        left = [r.name for r in resources if _exists(session, r.kind, r.name)]
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.5 if session.url else 5)


def _delete_model(session: AwsSession, aws: Aws, endpoint: str, model: str) -> None:
    """Delete a model of a multi-model endpoint from S3. A container that has opened it may still answer for a while."""
    sagemaker = session.client("sagemaker")
    with aws_errors(f"looking at endpoint {endpoint}"):
        config = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
        variant = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"][0]
        container = sagemaker.describe_model(ModelName=variant["ModelName"])["PrimaryContainer"]
        if container.get("Mode") != "MultiModel":
            raise ConfigError(
                f"delete={endpoint}/{model}: {endpoint} has one model; delete={endpoint} deletes it whole"
            )
        bucket, _, prefix = container["ModelDataUrl"].removeprefix("s3://").partition("/")
        s3, key = session.client("s3"), f"{prefix}{model}.tar.gz"
        keys = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]
        if key not in keys:
            names = ", ".join(k.removeprefix(prefix).removesuffix(".tar.gz") for k in keys)
            raise ConfigError(f"delete={endpoint}/{model}: {endpoint} has no such model; it has {names}")
        s3.delete_object(Bucket=bucket, Key=key)
    console.info(f"deleted {model}; containers that have opened it may still answer with it")
