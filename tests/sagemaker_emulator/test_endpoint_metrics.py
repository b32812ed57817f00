"""Metrics of invocations in CloudWatch, alarms on them, and Application Auto Scaling, which moto stores."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import urllib3
from botocore.exceptions import ClientError
from emulator_helpers import Client, client, until
from hosting_helpers import hosting, invoke, make_endpoint, make_model, variant

from sagemaker_emulator.server import Emulator


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    with hosting(tmp_path / "emulator") as running:
        make_model(running, "m")
        make_endpoint(running, "e", variant("m", InitialInstanceCount=2))
        yield running


def invoke_some(emulator: Emulator, *bodies: bytes) -> None:
    for body in bodies:
        with suppress(ClientError):
            invoke(emulator, "e", body)


def statistics(cloudwatch: Client, metric: str, statistic: str, **dimensions: str) -> float:
    now = datetime.now(UTC)
    named = {"EndpointName": "e", "VariantName": "AllTraffic"} | dimensions
    points = cloudwatch.get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[{"Name": k, "Value": v} for k, v in named.items()],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(minutes=2),
        Period=7200,
        Statistics=[statistic],
    )["Datapoints"]
    assert len(points) == 1, points
    return float(points[0][statistic])


def test_metrics_of_invocations_are_in_cloudwatch(emulator: Emulator) -> None:
    invoke_some(emulator, b"sleep 0.2", b"status 400", b"status 404", b"status 500", b"a")
    with pytest.raises(ClientError, match="not found"):
        invoke(emulator, "e", TargetVariant="none")  # no container is invoked
    cloudwatch = client(emulator, "cloudwatch")
    assert statistics(cloudwatch, "Invocations", "Sum") == 5
    assert statistics(cloudwatch, "Invocations", "Sum", EndpointConfigName="e") == 5
    assert statistics(cloudwatch, "InvocationsPerInstance", "Sum") == 2.5
    assert statistics(cloudwatch, "Invocation4XXErrors", "Sum") == 2
    assert statistics(cloudwatch, "Invocation5XXErrors", "Average") == pytest.approx(0.2)
    assert statistics(cloudwatch, "ModelLatency", "SampleCount") == 5
    assert 200_000 <= statistics(cloudwatch, "ModelLatency", "Maximum") < 5e6, "microseconds"
    assert 0 < statistics(cloudwatch, "OverheadLatency", "Average") < 1e6
    listed = cloudwatch.list_metrics(Namespace="AWS/SageMaker")["Metrics"]
    assert len(listed) == 12, "each of six metrics with and without the configuration"
    only = [{"Name": "EndpointConfigName", "Value": "e"}]
    assert len(cloudwatch.list_metrics(Namespace="AWS/SageMaker", Dimensions=only)["Metrics"]) == 6


@pytest.mark.parametrize("order", [1, -1])
def test_metric_data_are_returned_too(emulator: Emulator, order: int) -> None:
    invoke_some(emulator, b"a", b"status 500")
    dimensions = [{"Name": "EndpointName", "Value": "e"}, {"Name": "VariantName", "Value": "AllTraffic"}][::order]
    metric = {"Namespace": "AWS/SageMaker", "MetricName": "Invocation5XXErrors", "Dimensions": dimensions}
    query = {"Id": "a", "MetricStat": {"Metric": metric, "Period": 7200, "Stat": "Sum"}}
    now = datetime.now(UTC)
    found = client(emulator, "cloudwatch").get_metric_data(
        MetricDataQueries=[query], StartTime=now - timedelta(hours=1), EndTime=now + timedelta(minutes=1)
    )
    assert found["MetricDataResults"][0]["Values"] == [1.0]


MORE, LESS = "GreaterThanThreshold", "LessThanThreshold"
AVERAGE = {"Statistic": "Average"}
TWO = {"EvaluationPeriods": 2}


@pytest.mark.parametrize(
    ("threshold", "comparison", "settings", "empty", "full"),
    [
        (1, MORE, {}, "INSUFFICIENT_DATA", "ALARM"),
        (2, MORE, {}, "INSUFFICIENT_DATA", "OK"),
        (2, "GreaterThanOrEqualToThreshold", {}, "INSUFFICIENT_DATA", "ALARM"),
        (3, LESS, {"TreatMissingData": "breaching"}, "ALARM", "ALARM"),
        (1, "LessThanOrEqualToThreshold", {"TreatMissingData": "breaching"}, "ALARM", "OK"),
        (1, MORE, TWO, "INSUFFICIENT_DATA", "OK"),
        (1, MORE, TWO | {"DatapointsToAlarm": 1, "TreatMissingData": "notBreaching"}, "OK", "ALARM"),
        (0.6, MORE, AVERAGE, "INSUFFICIENT_DATA", "ALARM"),
        (0.7, MORE, AVERAGE, "INSUFFICIENT_DATA", "OK"),
        (0.9, MORE, {"ExtendedStatistic": "p60"}, "INSUFFICIENT_DATA", "ALARM"),
        (0.1, MORE, {"ExtendedStatistic": "p30"}, "INSUFFICIENT_DATA", "OK"),
    ],
)
def test_an_alarm_is_evaluated_as_its_settings_say(
    emulator: Emulator, threshold: float, comparison: str, settings: dict[str, object], empty: str, full: str
) -> None:
    cloudwatch = client(emulator, "cloudwatch")
    dimensions = [{"Name": "EndpointName", "Value": "e"}, {"Name": "VariantName", "Value": "AllTraffic"}]
    by_default = {} if "ExtendedStatistic" in settings else {"Statistic": "Sum"}
    cloudwatch.put_metric_alarm(
        **{
            "AlarmName": "a",
            "Namespace": "AWS/SageMaker",
            "MetricName": "Invocation5XXErrors",
            "Dimensions": dimensions,
            "Period": 3600,
            "EvaluationPeriods": 1,
            "Threshold": threshold,
            "ComparisonOperator": comparison,
        }
        | by_default
        | settings
    )

    def state() -> str:
        return str(cloudwatch.describe_alarms(AlarmNames=["a"])["MetricAlarms"][0]["StateValue"])

    until(lambda: cloudwatch.describe_alarms()["MetricAlarms"][0]["StateReason"], lambda r: "Unchecked" not in r)
    assert state() == empty
    invoke_some(emulator, b"status 500", b"a", b"status 503")
    until(state, lambda found: found == full)


def test_an_alarm_watches_the_99th_percentile_of_the_latency(emulator: Emulator) -> None:
    cloudwatch = client(emulator, "cloudwatch")
    for name, threshold in (("over", 200_000), ("under", 1e9)):
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            Namespace="AWS/SageMaker",
            MetricName="ModelLatency",
            Dimensions=[{"Name": "VariantName", "Value": "AllTraffic"}, {"Name": "EndpointName", "Value": "e"}],
            ExtendedStatistic="p99",
            Period=3600,
            EvaluationPeriods=1,
            Threshold=threshold,
            ComparisonOperator=MORE,
        )
    invoke_some(emulator, b"a", b"sleep 0.3")

    def states() -> dict[str, str]:
        return {a["AlarmName"]: a["StateValue"] for a in cloudwatch.describe_alarms()["MetricAlarms"]}

    until(states, lambda found: found == {"over": "ALARM", "under": "OK"})


def test_alarms_on_metrics_of_ones_own_are_evaluated_too(emulator: Emulator) -> None:
    cloudwatch = client(emulator, "cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="a",
        Namespace="mine",
        MetricName="drift",
        Statistic="Maximum",
        Period=3600,
        EvaluationPeriods=1,
        Threshold=1.0,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
    )

    def state() -> str:
        return str(cloudwatch.describe_alarms(AlarmNames=["a"])["MetricAlarms"][0]["StateValue"])

    until(state, lambda found: found == "INSUFFICIENT_DATA")
    for value, expected in ((0.5, "OK"), (1.0, "ALARM")):
        cloudwatch.put_metric_data(Namespace="mine", MetricData=[{"MetricName": "drift", "Value": value}])
        until(state, lambda found, expected=expected: found == expected)  # type: ignore[misc]


@pytest.mark.slow
def test_scaling_policies_are_stored_and_marked_as_not_executed(emulator: Emulator) -> None:
    scaling = client(emulator, "application-autoscaling")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": "endpoint/e/variant/AllTraffic",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling.register_scalable_target(**target, MinCapacity=1, MaxCapacity=4)
    (found,) = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (found["ResourceId"], found["MaxCapacity"]) == (target["ResourceId"], 4)
    tracking = {
        "TargetValue": 70.0,
        "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
    }
    scaling.put_scaling_policy(
        PolicyName="p", PolicyType="TargetTrackingScaling", TargetTrackingScalingPolicyConfiguration=tracking, **target
    )
    policies = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    assert [p["PolicyName"] for p in policies] == ["p"]
    page = urllib3.request("GET", emulator.url, headers={"Accept": "text/html"}).data.decode()
    for operation in ("RegisterScalableTarget", "PutScalingPolicy", "DescribeScalableTargets"):
        row = page[page.index(operation) :]
        assert "not executed" in row[: row.index("</tr>")], operation
