"""Requests for models and endpoints, as plain dicts from pure functions."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sagehound_launchers.config import Aws
from sagehound_launchers.sagemaker.requests import TAG, Account, tags

if TYPE_CHECKING:
    from sagehound_launchers.stages.deploy import Deploy

VARIANT = "main"
SHADOW = "shadow"
_DOWNLOAD, _START = 1200, 600  # seconds that a container has to get its model, and to respond to its first ping


def model(name: str, endpoint: str, uri: str, account: Account, aws: Aws, *, many: bool = False) -> dict[str, Any]:
    """CreateModel.

    Args:
        name: of the model.
        endpoint: the endpoint that it belongs to, for the tag.
        uri: of model.tar.gz in S3; of a prefix with several, if ``many``.
        account: role and image.
        aws: the keys of the group ``aws``.
        many: whether the container opens models by TargetModel.
    """
    container: dict[str, Any] = {"Image": account.image, "ModelDataUrl": uri}
    if many:
        container["Mode"] = "MultiModel"
    if aws.environment:
        container["Environment"] = dict(aws.environment)
    request = {
        "ModelName": name,
        "ExecutionRoleArn": account.role,
        "PrimaryContainer": container,
        "Tags": tags(aws, endpoint),
    }
    if aws.subnets:
        request["VpcConfig"] = {"Subnets": list(aws.subnets), "SecurityGroupIds": list(aws.security_groups)}
    return request


def endpoint_config(
    own: "Deploy", endpoint: str, models: Mapping[str, str], account: Account, aws: Aws
) -> dict[str, Any]:
    """CreateEndpointConfig. Its name follows from its content, so that the same settings are created once.

    Args:
        own: the keys of the group ``deploy``.
        endpoint: the endpoint's name.
        models: the models' names by variant, ``main`` and maybe ``shadow``.
        account: bucket.
        aws: the keys of the group ``aws``.
    """
    base = f"s3://{account.bucket}/{aws.prefix}"
    request: dict[str, Any] = {"ProductionVariants": [_variant(own, VARIANT, models[VARIANT])]}
    if SHADOW in models:
        request["ShadowProductionVariants"] = [_variant(own, SHADOW, models[SHADOW])]
    if own.capture_percent:
        request["DataCaptureConfig"] = {
            "EnableCapture": True,
            "InitialSamplingPercentage": own.capture_percent,
            "DestinationS3Uri": f"{base}/captured",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
        }
    if own.name == "async":
        paths = {"S3OutputPath": f"{base}/async/{endpoint}/out", "S3FailurePath": f"{base}/async/{endpoint}/failed"}
        kms = {"KmsKeyId": aws.kms_key} if aws.kms_key else {}
        request["AsyncInferenceConfig"] = {"OutputConfig": paths | kms}
        if own.max_concurrency:
            client = {"MaxConcurrentInvocationsPerInstance": own.max_concurrency}
            request["AsyncInferenceConfig"]["ClientConfig"] = client
    request["Tags"] = tags(aws, endpoint)
    return {"EndpointConfigName": named(endpoint, json.dumps(request, sort_keys=True)), **request}


def _variant(own: "Deploy", name: str, of_model: str) -> dict[str, Any]:
    variant = {"VariantName": name, "ModelName": of_model, "InitialVariantWeight": 1.0}
    if own.name == "serverless":
        concurrency = own.max_concurrency or 5
        return variant | {"ServerlessConfig": {"MemorySizeInMB": own.memory_mb, "MaxConcurrency": concurrency}}
    return variant | {
        "InstanceType": own.instance_type,
        "InitialInstanceCount": own.instance_count,
        "ModelDataDownloadTimeoutInSeconds": _DOWNLOAD,
        "ContainerStartupHealthCheckTimeoutInSeconds": _START,
    }


def endpoint(name: str, config: str, aws: Aws) -> dict[str, Any]:
    """CreateEndpoint."""
    return {"EndpointName": name, "EndpointConfigName": config, "Tags": tags(aws, name)}


def update(name: str, config: str, own: "Deploy") -> dict[str, Any]:
    """UpdateEndpoint, with the way in which traffic moves to the new instances."""
    request: dict[str, Any] = {"EndpointName": name, "EndpointConfigName": config}
    is_default = own.update == "all_at_once" and not own.bake_seconds and not own.alarms
    if own.name == "serverless" or is_default:  # which takes no DeploymentConfig, or needs none
        return request
    deployment: dict[str, Any] = {}
    if own.update == "rolling":
        half = {"Type": "CAPACITY_PERCENT", "Value": 50}
        deployment["RollingUpdatePolicy"] = {"MaximumBatchSize": half, "WaitIntervalInSeconds": own.bake_seconds}
    else:
        traffic: dict[str, Any] = {"Type": own.update.upper(), "WaitIntervalInSeconds": own.bake_seconds}
        if own.update != "all_at_once":
            size = {"Type": "CAPACITY_PERCENT", "Value": 10 if own.update == "canary" else 25}
            traffic["CanarySize" if own.update == "canary" else "LinearStepSize"] = size
        deployment["BlueGreenUpdatePolicy"] = {
            "TrafficRoutingConfiguration": traffic,
            "TerminationWaitInSeconds": own.bake_seconds,
        }
    if own.alarms:
        deployment["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": name} for name in own.alarms]}
    return request | {"DeploymentConfig": deployment}


def autoscaling(name: str, own: "Deploy") -> tuple[dict[str, Any], dict[str, Any]]:
    """Application Auto Scaling's RegisterScalableTarget and PutScalingPolicy for the main variant."""
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    policy = {"TargetValue": own.calls_per_instance, "PredefinedMetricSpecification": metric}
    return (
        target | {"MinCapacity": own.instance_count, "MaxCapacity": own.max_instances},
        target
        | {
            "PolicyName": f"{name}-calls",
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": policy,
        },
    )


def named(endpoint: str, content: str) -> str:
    """A name of at most 63 characters that follows from an endpoint and the content of what is named."""
    return f"{endpoint[:50].rstrip('-')}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def is_ours(listed: Sequence[Mapping[str, str]]) -> str | None:
    """What a resource with these tags belongs to: an endpoint's name, or the kind of a job. None: it is not ours."""
    return next((tag["Value"] for tag in listed if tag["Key"] == TAG), None)
