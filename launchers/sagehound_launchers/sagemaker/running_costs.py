"""What endpoints and jobs cost an hour by list prices, and how often endpoints are called."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sagehound_launchers.sagemaker import cost
from sagehound_launchers.sagemaker.account import AwsSession
from sagehound_launchers.sagemaker.aws_errors import aws_errors, code_of
from sagehound_launchers.sagemaker.hosting_requests import VARIANT


def dollars(session: AwsSession, kind: str, name: str) -> float | None:
    """List price of an hour; 0 for what costs nothing; None if it is not known.

    Args:
        session: the account.
        kind: endpoint, training job, processing job, transform job, or anything that costs nothing by itself.
        name: of it.
    """
    from botocore.exceptions import ClientError

    with aws_errors(f"looking at {name}"):
        try:
            machines = _machines(session.client("sagemaker"), kind, name)
        except ClientError as error:
            if code_of(error) not in ("ValidationException", "ResourceNotFound"):
                raise
            return None  # it, or an endpoint's configuration, was deleted meanwhile
    prices = [(cost.price(instance, session.region), count) for instance, count in machines if instance is not None]
    if any(price is None for price, _ in prices):
        return None
    return sum(price.dollars * count for price, count in prices if price)


def _machines(sagemaker: Any, kind: str, name: str) -> list[tuple[str | None, int]]:  # noqa: ANN401 - boto3
    """Instance type and count of each part; no type: serverless."""
    if kind == "endpoint":
        config = sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"]
        described = sagemaker.describe_endpoint_config(EndpointConfigName=config)
        variants = described["ProductionVariants"] + described.get("ShadowProductionVariants", [])
        return [(variant.get("InstanceType"), variant.get("InitialInstanceCount", 0)) for variant in variants]
    if kind == "training job":
        resources = sagemaker.describe_training_job(TrainingJobName=name)["ResourceConfig"]
    elif kind == "transform job":
        resources = sagemaker.describe_transform_job(TransformJobName=name)["TransformResources"]
    elif kind == "processing job":
        resources = sagemaker.describe_processing_job(ProcessingJobName=name)["ProcessingResources"]["ClusterConfig"]
    else:
        return []  # a tuning job's training jobs are listed by themselves
    return [(resources["InstanceType"], resources["InstanceCount"])]


def calls(session: AwsSession, endpoint: str, created: datetime, hours: float) -> int | None:
    """The calls of an endpoint in the last hours, as CloudWatch has counted them; None if it is younger."""
    now = datetime.now(UTC)
    if now - created < timedelta(hours=hours):
        return None
    with aws_errors(f"reading the calls of {endpoint}"):
        points = session.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName="Invocations",
            Dimensions=[{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": VARIANT}],
            StartTime=now - timedelta(hours=hours),
            EndTime=now,
            Period=3600,
            Statistics=["Sum"],
        )["Datapoints"]
    return round(sum(float(point["Sum"]) for point in points))
