"""Metrics of an endpoint's invocations, as AWS/SageMaker has them in CloudWatch: one data point a minute."""

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from moto.cloudwatch.models import Dimension, MetricAggregatedDatum, MetricDatum, MetricDatumBase

from sagemaker_emulator.aws_services import AwsServices
from sagemaker_emulator.hosting.deployment import Deployment
from sagemaker_emulator.storage.records import Record

NAMESPACE = "AWS/SageMaker"
MINUTE = 60  # seconds
_BASE = 1.01  # two neighbouring buckets differ by 1 %
_ZERO = -100_000  # the bucket of values that are not positive


class InvocationMetrics:
    """Adds each invocation to CloudWatch. Names, units and dimensions are those of AWS's developer guide.

    Each metric exists for EndpointName and VariantName, and again with EndpointConfigName, by which an alarm watches
    only the new containers of an update.
    """

    def __init__(self, aws: AwsServices) -> None:
        self._aws = aws
        self._lock = threading.Lock()
        self._minute = 0  # seconds since 1970
        self._points: dict[tuple[str, ...], MinutePoint] = {}  # of this minute

    def add(
        self, deployment: Deployment, variant: Record, status: int, latency: float, overhead: float | None = None
    ) -> None:
        """Add one invocation.

        Args:
            deployment: whose container responded.
            variant: of which endpoint configuration.
            status: of the container's response; 0: it did not respond.
            latency: seconds that the container took.
            overhead: seconds that the emulator took besides; None: the invocation was asynchronous.
        """
        values = [
            ("Invocation4XXErrors", float(400 <= status < 500), "None"),
            ("Invocation5XXErrors", float(status == 0 or status >= 500), "None"),
            ("ModelLatency", latency * 1e6, "Microseconds"),
        ]
        if overhead is not None:  # the developer guide lists no others for asynchronous endpoints
            count = variant.get("InitialInstanceCount")
            values += [("Invocations", 1.0, "None"), ("OverheadLatency", max(overhead, 0.0) * 1e6, "Microseconds")]
            values += [("InvocationsPerInstance", 1 / count, "None")] if count else []
        names = [("EndpointName", deployment.endpoint), ("VariantName", variant["VariantName"])]
        config = deployment.config.get("EndpointConfigName")
        with self._lock:
            minute = int(time.time()) // MINUTE * MINUTE
            if minute != self._minute:
                self._minute, self._points = minute, {}
            for dimensions in (names, [*names, ("EndpointConfigName", config)] if config else []):
                for metric, value, unit in values if dimensions else []:
                    self._add(metric, dimensions, value, unit)

    def _add(self, metric: str, dimensions: list[tuple[str, str]], value: float, unit: str) -> None:
        key = (metric, *(v for _, v in dimensions))
        if point := self._points.get(key):
            point.add(value)
        else:
            self._points[key] = MinutePoint(metric, dimensions, value, unit, self._minute)
            self._aws.add_point(self._points[key])


class MinutePoint(MetricAggregatedDatum):
    """A data point of moto's CloudWatch that further values are added to."""

    def __init__(self, name: str, dimensions: list[tuple[str, str]], value: float, unit: str, minute: float) -> None:
        """Make it from its first value; ``minute`` is its start in seconds since 1970."""
        named = [{"Name": k, "Value": v} for k, v in dimensions]
        when = AwsServices.moment(minute)
        self.buckets = Counter({_bucket(value): 1})  # numbers of values, for percentiles
        super().__init__(NAMESPACE, name, value, value, 1, value, named, when, unit)
        self.dimensions = [_Dimension(name, value, dimensions) for name, value in dimensions]

    def add(self, value: float) -> None:
        """Add a value."""
        self.buckets[_bucket(value)] += 1
        self.min, self.max = min(self.min, value), max(self.max, value)
        self.sum, self.sample_count = self.sum + value, self.sample_count + 1

    def filter(
        self,
        namespace: str | None,
        name: str | None,
        dimensions: list[dict[str, str]],
        already_present_metrics: list[Any] | None = None,
    ) -> bool:
        """Whether a request for statistics means this metric, or ListMetrics must list it.

        Statistics are those of one metric, which has exactly the dimensions of the request; moto would add up all that
        have these and more. moto's ListMetrics lists a metric of several dimensions once for each data point.
        """
        own = _by_name(self.dimensions)
        if already_present_metrics is None:
            return own == {d["Name"]: d["Value"] for d in dimensions}
        if (namespace or self.namespace, name or self.name) != (self.namespace, self.name):
            return False
        if any(d["Name"] not in own or d.get("Value", own[d["Name"]]) != own[d["Name"]] for d in dimensions or []):
            return False
        listed = ((m.namespace, m.name, _by_name(m.dimensions)) for m in already_present_metrics)
        return (self.namespace, self.name, own) not in listed


class _Dimension(Dimension):
    """A dimension that equals each one of its metric.

    GetMetricData compares sorted lists, and moto's order depends on the order in the request.
    """

    def __init__(self, name: str, value: str, whole: list[tuple[str, str]]) -> None:
        super().__init__(name, value)
        self._whole = whole

    def __eq__(self, item: object) -> bool:
        return isinstance(item, Dimension) and (item.name, item.value) in self._whole


def quantile(points: Iterable[MetricDatumBase], part: float) -> float | None:
    """The quantile of all values of data points, with an error of at most 0.5 %; None: there are no values.

    Args:
        points: those that were put as statistics have no values.
        part: from 0 to 1.
    """
    counts: Counter[float] = Counter()
    for point in points:
        if isinstance(point, MinutePoint):
            counts.update({_BASE**b if b > _ZERO else 0.0: count for b, count in point.buckets.copy().items()})
        elif isinstance(point, MetricDatum):
            counts[point.value] += 1
    left = part * counts.total()
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return None


def _bucket(value: float) -> int:
    return round(math.log(value, _BASE)) if value > 0 else _ZERO


def _by_name(dimensions: list[Dimension]) -> dict[str | None, str | None]:
    return {d.name: d.value for d in dimensions}
