"""Alarms of CloudWatch that watch one metric: moto stores them, and the emulator evaluates them.

An alarm is evaluated continuously over whole periods and the one that has begun, so it reacts earlier than AWS's. A
state that SetAlarmState sets lasts until the metric leads to another result than before.
"""

import math
import operator
import re
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC

from moto.cloudwatch.models import Alarm, MetricDatumBase, Statistics
from moto.core.utils import utcnow

from sagemaker_emulator.aws_services import AwsServices
from sagemaker_emulator.errors import invalid
from sagemaker_emulator.hosting.invocation_metrics import MINUTE, NAMESPACE, quantile
from sagemaker_emulator.processes.tasks import Tasks

_POLL = 0.5  # seconds between two evaluations
_PERCENTILE = re.compile(r"p\d+(\.\d+)?")
_BREACHES: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "GreaterThanThreshold": (operator.gt, "greater than"),
    "GreaterThanOrEqualToThreshold": (operator.ge, "greater than or equal to"),
    "LessThanThreshold": (operator.lt, "less than"),
    "LessThanOrEqualToThreshold": (operator.le, "less than or equal to"),
}


class Alarms:
    """Evaluates alarms, for updates of endpoints and for DescribeAlarms."""

    def __init__(self, aws: AwsServices, tasks: Tasks) -> None:
        self._aws, self._tasks = aws, tasks
        self._lock = threading.Lock()
        self._results: dict[Alarm, str] = {}  # of each alarm's last evaluation

    def check(self, names: Sequence[str]) -> None:
        """Check that alarms exist.

        Raises:
            ApiError: one does not.
        """
        known = {alarm.name for alarm in self._aws.alarms()}
        if missing := [name for name in names if name not in known]:
            raise invalid(f"There is no CloudWatch alarm {', '.join(missing)}: create it first.")

    def tripped(self, names: Sequence[str]) -> list[str]:
        """Those of the alarms that are in state ALARM now."""
        if not names:
            return []
        self.evaluate()
        return [alarm.name for alarm in self._aws.alarms() if alarm.name in names and alarm.state_value == "ALARM"]

    def evaluate(self) -> None:
        """Set the state of each alarm whose result has changed."""
        with self._lock:
            alarms = [a for a in self._aws.alarms() if _is_evaluated(a)]
            self._results = {alarm: result for alarm, result in self._results.items() if alarm in alarms}
            for alarm in alarms:
                state, reason = self._result(alarm)
                before = self._results.setdefault(alarm, state)
                is_new = before == state and not alarm.history and alarm.state_reason.startswith("Unchecked")
                if state != before or is_new:
                    alarm.update_state(reason, "{}", state)
                self._results[alarm] = state

    def recover(self) -> None:
        """Begin to evaluate."""
        self._tasks.background(self._keep_evaluating)

    def _keep_evaluating(self) -> None:
        while not self._tasks.stopping.wait(_POLL):
            self.evaluate()

    def _result(self, alarm: Alarm) -> tuple[str, str]:
        """The state of an alarm by its metric, and the reason."""
        values = self._values(alarm)
        breaches, words = _BREACHES[alarm.comparison_operator]
        present = [value for value in values if value is not None]
        missing = alarm.treat_missing_data or "missing"
        if not present and missing in ("missing", "ignore"):
            before = self._results.get(alarm, "INSUFFICIENT_DATA")
            state = before if missing == "ignore" else "INSUFFICIENT_DATA"
            return state, "Insufficient Data: there are no data points."
        bad = [value for value in present if breaches(value, float(alarm.threshold))]
        count = len(bad) + (missing == "breaching") * (len(values) - len(present))
        needed = int(alarm.datapoints_to_alarm or alarm.evaluation_periods)
        state = "ALARM" if count >= needed else "OK"
        return state, f"{count} data points {bad} were {words} the threshold ({alarm.threshold}); {needed} are needed."

    def _values(self, alarm: Alarm) -> list[float | None]:
        """The metric's statistic in each of the last periods, the newest first; None: there are no data.

        The period that has begun counts once there are data in it.
        """
        # metrics of AWS's own namespaces have one data point a minute
        period = max(int(alarm.period), MINUTE) if alarm.namespace == NAMESPACE else int(alarm.period)
        count = int(alarm.evaluation_periods)
        begun = int(time.time()) // period * period
        periods: list[list[MetricDatumBase]] = [[] for _ in range(count + 1)]
        for point in self._aws.points(alarm, begun - count * period):
            seconds = point.timestamp.replace(tzinfo=UTC).timestamp()
            periods[max(math.ceil((begun - seconds) / period), 0)].append(point)
        values = [_statistic(alarm, points) for points in periods]
        return values[:count] if values[0] is not None else values[1:]


def _is_evaluated(alarm: Alarm) -> bool:
    """Whether an alarm watches one metric, by a fixed threshold."""
    has_statistic = alarm.statistic or _PERCENTILE.fullmatch(alarm.extended_statistic or "")
    is_whole = None not in (alarm.period, alarm.threshold)  # moto does not check that
    return bool(has_statistic) and is_whole and alarm.comparison_operator in _BREACHES


def _statistic(alarm: Alarm, points: list[MetricDatumBase]) -> float | None:
    """The statistic that an alarm names, of the data points of a period; None: there are none."""
    if alarm.extended_statistic:
        return quantile(points, float(alarm.extended_statistic[1:]) / 100)
    whole = Statistics([alarm.statistic], utcnow())
    whole.metric_data = points
    return float(whole.get_statistics_for_type(alarm.statistic) or 0) if points else None
