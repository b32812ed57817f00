"""An endpoint in the form of DescribeEndpoint."""

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
        "ProductionVariants": [_variant(v) for v in variants],
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
