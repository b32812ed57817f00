"""What Sagehound has created in the account: `launch list` and `launch delete=NAME`. It is known by its tag."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sagehound.errors import ConfigError, SagehoundError
from sagehound.system import console
from sagehound_launchers.config import Aws
from sagehound_launchers.sagemaker import running_costs
from sagehound_launchers.sagemaker.account import AwsSession, open_session
from sagehound_launchers.sagemaker.aws_errors import aws_errors, code_of
from sagehound_launchers.sagemaker.hosting_requests import VARIANT, is_ours

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
    calls: int | None = None  # of an endpoint in the last hours; None: it is younger, or no endpoint

    @property
    def is_job(self) -> bool:
        """Whether it is a job that runs."""
        return self.kind.endswith(" job")

    @property
    def price(self) -> str:
        """The cost an hour in words."""
        return "not known" if self.dollars is None else "-" if not self.dollars else f"${self.dollars:g}"


def show(aws: Aws, hours: float) -> list[Resource]:
    """Print everything that exists or runs, with its cost an hour, and each endpoint's calls in the last hours."""
    resources = list(everything(open_session(aws), hours))
    if not resources:
        console.info("nothing of Sagehound exists or runs")
        return resources
    rows = [
        [r.kind, r.name, r.of, r.status, r.created, "-" if r.calls is None else f"{r.calls:,}", r.price]
        for r in resources
    ]
    columns = ["what", "name", "of", "status", "created", f"calls, {hours:g} h", "an hour"]
    console.table("On SageMaker", columns, rows)
    if idle := [r.name for r in resources if r.calls == 0]:
        console.warn(f"not called for {hours:g} hours: {', '.join(idle)}; delete=idle deletes them")
    hourly = sum(r.dollars or 0 for r in resources)
    chosen = (*sorted({r.of for r in resources if r.kind == "endpoint"}), "all")[0]
    console.info(f"{len(resources)} in all, ${hourly:g} an hour; to delete: sagehound launch delete={chosen}")
    return resources


def delete(aws: Aws, name: str, hours: float) -> None:
    """Delete an endpoint with its configurations and models, or all of them and every job that runs.

    Args:
        aws: the keys of the group ``aws``.
        name: an endpoint or a job; ENDPOINT/MODEL, a model of a multi-model endpoint; idle, each endpoint without a
            call; or all.
        hours: without a call, after which an endpoint is idle.

    Raises:
        ConfigError: nothing of Sagehound has this name.
        SagehoundError: something is still there.
    """
    session = open_session(aws)
    endpoint, _, model = name.partition("/")
    if model:
        return _delete_model(session, endpoint, model)
    resources = list(everything(session, hours))
    idle = {r.of for r in resources if r.calls == 0} if name == "idle" else set()
    chosen = [r for r in resources if name in ("all", r.name) or (not r.is_job and r.of in {name, *idle})]
    if not chosen and name not in ("all", "idle"):
        known = ", ".join(sorted({r.of for r in resources})) or "nothing"
        raise ConfigError(f"delete={name}: Sagehound has created nothing of this name; there is {known}")
    errors: list[str] = []
    console.info(f"deleting {len(chosen)}" if chosen else "there is nothing to delete")
    for resource in chosen:
        if resource.kind != "endpoint" and any(resource.of in error for error in errors):
            continue  # its endpoint is still there and needs it
        try:
            _remove(session, resource)
        except SagehoundError as error:  # the others are deleted all the same
            errors.append(str(error))
    left = _left(session, [r for r in chosen if not any(r.name in error for error in errors)])
    if errors or left:
        still = f"still there: {', '.join(left)}" if left else ""
        raise SagehoundError("; ".join(filter(None, [*errors, still, "sagehound launch list shows what is left"])))
    names = ", ".join(f"{r.kind} {r.name}" for r in chosen)
    if chosen:
        console.info(f"deleted, nothing of them is left: {names}")
    return None


def everything(session: AwsSession, hours: float | None = None) -> Iterator[Resource]:
    """Yield everything that exists or runs; with ``hours``, also the calls of endpoints in that time."""
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
            is_counted = hours is not None and kind == "endpoint"
            calls = running_costs.calls(session, name, summary["CreationTime"], hours or 0) if is_counted else None
            yield Resource(kind, name, of, status, created, running_costs.dollars(session, kind, name), calls)


def owner(session: AwsSession, resource: str) -> str | None:
    """The value of our tag of endpoint/NAME; None if it has none, or if there is no such endpoint."""
    from botocore.exceptions import ClientError

    sagemaker, name = session.client("sagemaker"), resource.partition("/")[2]
    with aws_errors(f"looking at {resource}"):
        try:
            arn = sagemaker.describe_endpoint(EndpointName=name)["EndpointArn"]
        except ClientError as error:
            if code_of(error) != "ValidationException":
                raise
            return None
        return _owner(session, arn)


def _owner(session: AwsSession, arn: str) -> str | None:
    from botocore.exceptions import ClientError

    with aws_errors(f"looking at the tags of {arn}"):
        try:
            return is_ours(session.client("sagemaker").list_tags(ResourceArn=arn)["Tags"])
        except ClientError as error:
            if code_of(error) != "ValidationException":
                raise
            return None  # deleted meanwhile


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


def _remove(session: AwsSession, resource: Resource) -> None:
    """Delete a resource, or stop a job; nothing happens if it is gone."""
    from botocore import xform_name
    from botocore.exceptions import ClientError

    sagemaker, stem = session.client("sagemaker"), _KINDS[resource.kind][2]
    end = time.monotonic() + _PATIENCE
    with aws_errors(f"deleting {resource.name}"):
        while _exists(session, resource.kind, resource.name):
            try:
                if resource.kind == "model":
                    _empty(session, resource)
                verb = "Stop" if resource.is_job else "Delete"
                getattr(sagemaker, xform_name(f"{verb}{stem}"))(**{f"{stem}Name": resource.name})
                break
            except ClientError as error:  # an endpoint that is being created or updated cannot be deleted yet
                if code_of(error) != "ValidationException" or time.monotonic() > end:
                    raise
                time.sleep(_pause(session))
    if resource.kind == "endpoint":
        _left(session, [resource])  # its configuration and model are deleted after it
        unscale(session, resource.name)


def _empty(session: AwsSession, model: Resource) -> None:
    """Delete the archives of a multi-model endpoint, which belong to it alone."""
    container = session.client("sagemaker").describe_model(ModelName=model.name)["PrimaryContainer"]
    bucket, _, prefix = container["ModelDataUrl"].removeprefix("s3://").partition("/")
    if container.get("Mode") != "MultiModel" or not prefix.endswith(f"/multi-model/{model.of}/"):
        return
    s3 = session.client("s3")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            s3.delete_object(Bucket=bucket, Key=item["Key"])


def unscale(session: AwsSession, name: str) -> None:
    """Deregister an endpoint's scaling, if it has one, which deletes its policies and alarms."""
    scaling, ids = session.client("application-autoscaling"), [f"endpoint/{name}/variant/{VARIANT}"]
    with aws_errors(f"looking at the scaling of {name}"):
        known = scaling.describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=ids)["ScalableTargets"]
        for target in known:
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
    return not kind.endswith(" job") or described[f"{stem}Status"] in ("InProgress", "Stopping")


def _left(session: AwsSession, resources: list[Resource]) -> list[str]:
    """The names of those that are still there after a time."""
    end = time.monotonic() + _PATIENCE
    while True:
        left = [r.name for r in resources if _exists(session, r.kind, r.name)]
        if not left or time.monotonic() > end:
            return left
        time.sleep(_pause(session))


def _pause(session: AwsSession) -> float:
    """Seconds between two looks."""
    return 0.5 if session.url else 5.0


def _delete_model(session: AwsSession, endpoint: str, model: str) -> None:
    """Delete a model of a multi-model endpoint from S3. A container that has opened it may still answer for a while."""
    given = f"delete={endpoint}/{model}"
    sagemaker = session.client("sagemaker")
    if owner(session, f"endpoint/{endpoint}") is None:
        raise ConfigError(f"{given}: Sagehound has created no endpoint {endpoint}")
    with aws_errors(f"looking at endpoint {endpoint}"):
        config = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
        variant = sagemaker.describe_endpoint_config(EndpointConfigName=config)["ProductionVariants"][0]
        container = sagemaker.describe_model(ModelName=variant["ModelName"])["PrimaryContainer"]
        if container.get("Mode") != "MultiModel":
            raise ConfigError(f"{given}: {endpoint} has one model; delete={endpoint} deletes it")
        bucket, _, prefix = container["ModelDataUrl"].removeprefix("s3://").partition("/")
        s3 = session.client("s3")
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        names = [i["Key"].removeprefix(prefix).removesuffix(".tar.gz") for p in pages for i in p.get("Contents", [])]
        if model not in names:
            raise ConfigError(f"{given}: {endpoint} has no such model; it has {', '.join(names) or 'none'}")
        s3.delete_object(Bucket=bucket, Key=f"{prefix}{model}.tar.gz")
    console.info(f"deleted {model}; containers that have opened it may still answer with it")
