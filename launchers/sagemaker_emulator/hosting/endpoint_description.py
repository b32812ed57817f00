"""An endpoint in the form of DescribeEndpoint."""

import math
import time

from sagemaker_emulator.storage.records import Record


def described(variants: list[Record]) -> Record:
    """The members of DescribeEndpoint that follow from the variants in service. A missing one is None.

    Args:
        variants: of an endpoint configuration, each with ``_Container``, and in ``_Config`` the endpoint's settings.
    """
    config = variants[0].get("_Config", {})
    capture = config.get("DataCaptureConfig")
    return {
        "ProductionVariants": [_variant(v) for v in variants if not v.get("_Shadow")],
        "ShadowProductionVariants": [_variant(v) for v in variants if v.get("_Shadow")] or None,
        "AsyncInferenceConfig": config.get("AsyncInferenceConfig"),
        "DataCaptureConfig": capture
        and {
            "EnableCapture": capture.get("EnableCapture", True),
            "CaptureStatus": "Started" if capture.get("EnableCapture", True) else "Stopped",
            "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
            "DestinationS3Uri": capture["DestinationS3Uri"],
            "KmsKeyId": capture.get("KmsKeyId", ""),
        },
    }


def pending(variants: list[Record], share: float, status: str, message: str) -> Record:
    """The variants of an update in progress, in the form of PendingDeploymentSummary.

    Args:
        variants: the new ones.
        share: of the new capacity that has requests, from 0 to 1.
        status: AWS's name of the stage: Creating, ActivatingTraffic, Baking or Deleting.
        message: its text, in which ``{active}`` and ``{all}`` are numbers of instances.
    """
    now = time.time()
    summaries: dict[str, list[Record]] = {"ProductionVariants": [], "ShadowProductionVariants": []}
    for variant in variants:
        count = variant.get("InitialInstanceCount", 1)
        active = active_instances(variant, share)
        text = message.format(active=active, all=count)
        stage = {"Status": status, "StatusMessage": text, "StartTime": now}
        summary = _variant(variant) | {"VariantStatus": [stage]}
        if "ServerlessConfig" not in variant:
            summary |= {"CurrentInstanceCount": active, "InstanceType": variant["InstanceType"]}
        summaries["ShadowProductionVariants" if variant.get("_Shadow") else "ProductionVariants"].append(summary)
    return {member: found for member, found in summaries.items() if found}


def active_instances(variant: Record, share: float) -> int:
    """The instances of a variant that have a share of the requests."""
    count: int = variant.get("InitialInstanceCount", 1)
    return math.ceil(count * share - 1e-9)


def _variant(variant: Record) -> Record:
    image = {"SpecifiedImage": variant["_Container"]["Image"], "ResolutionTime": time.time()}
    weight = variant["InitialVariantWeight"]
    description = {
        "VariantName": variant["VariantName"],
        "DeployedImages": [image],
        "CurrentWeight": weight,
        "DesiredWeight": weight,
    }
    if serverless := variant.get("ServerlessConfig"):
        return description | {"CurrentServerlessConfig": serverless, "DesiredServerlessConfig": serverless}
    count = variant["InitialInstanceCount"]
    return description | {"CurrentInstanceCount": count, "DesiredInstanceCount": count}
