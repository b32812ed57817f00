"""IAM, CloudWatch and its logs in moto, called directly; logs are stored in files too."""

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from moto.backends import get_backend
from moto.cloudwatch.models import Alarm, MetricAggregatedDatum, MetricDatumBase

from sagemaker_emulator.account_answers import ROLE
from sagemaker_emulator.identity import ACCOUNT
from sagemaker_emulator.storage.atomic_files import write_text

_TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}


class AwsServices:
    """Roles, logs and metrics, without requests over the network."""

    def __init__(self, folder: Path, region: str) -> None:
        self._folder = folder / "logs"
        self._lock = threading.Lock()
        self._iam = get_backend("iam")[ACCOUNT]["aws"]
        self._logs = get_backend("logs")[ACCOUNT][region]
        self._watch = get_backend("cloudwatch")[ACCOUNT][region]
        if not any(role.name == ROLE for role in self._iam.get_roles()):  # IAM has no regions
            self._iam.create_role(ROLE, json.dumps(_TRUST), "/", None, "What jobs run as", [], None)
        for file in sorted(self._folder.glob("*/*.jsonl")):
            self._load(file)

    def has_role(self, arn: str) -> bool:
        """Whether IAM has the role."""
        return any(role.arn == arn for role in self._iam.get_roles())

    def log(self, group: str, stream: str, events: list[tuple[int, str]]) -> None:
        """Add events (milliseconds since 1970, text) to a log stream, which is created if needed."""
        file = self._folder / quote(group, safe="") / f"{quote(stream, safe='')}.jsonl"
        with self._lock:
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps([group, stream]) + "\n", encoding="utf-8")
            with file.open("a", encoding="utf-8") as log:
                log.writelines(json.dumps(event) + "\n" for event in events)
            self._put(group, stream, events)

    def read_log(self, group: str, prefix: str, most: int) -> list[tuple[str, float, str]]:
        """The last lines of a group's streams that have a prefix: stream, seconds since 1970, text."""
        with self._lock:
            streams = self._logs.groups[group].streams if group in self._logs.groups else {}
            lines = [
                (name, event.timestamp / 1000, event.message)
                for name in sorted(streams)
                if name.startswith(prefix)
                for event in streams[name].events[-most:]
            ]
        return lines[-most:]

    def _put(self, group: str, stream: str, events: list[tuple[int, str]]) -> None:
        self._logs.ensure_log_group(group)
        self._logs.ensure_log_stream(group, stream)
        if events:
            # CloudWatch refuses empty messages
            entries = [{"timestamp": moment, "message": text or " "} for moment, text in events]
            self._logs.put_log_events(group, stream, entries)

    def _load(self, file: Path) -> None:
        """Load a file into moto, without an incomplete line that a killed emulator left."""
        content = file.read_text(encoding="utf-8", errors="replace")
        whole = content[: content.rfind("\n") + 1]
        if whole != content:
            write_text(file, whole)  # else the next event would be appended to the incomplete line
        if not whole:
            file.unlink()
            return
        first, *lines = whole.splitlines()
        events = [(int(moment), str(text)) for moment, text in map(json.loads, lines)]
        group, stream = json.loads(first)
        self._put(group, stream, sorted(events, key=lambda event: event[0]))  # threads may have written out of order

    def metric(self, namespace: str, name: str, dimensions: Mapping[str, str], value: float, moment: float) -> None:
        """Put one value to CloudWatch."""
        named = [{"Name": k, "Value": v} for k, v in dimensions.items()]
        datum = {"MetricName": name, "Value": value, "Timestamp": self.moment(moment), "Dimensions": named}
        with self._lock:
            self._watch.put_metric_data(namespace, [datum])

    def add_point(self, point: MetricAggregatedDatum) -> None:
        """Add a data point to CloudWatch that may still change."""
        self._watch.metric_data.append(point)

    def alarms(self) -> list[Alarm]:
        """All alarms of CloudWatch."""
        return list(self._watch.alarms.values())

    def points(self, alarm: Alarm, since: float) -> list[MetricDatumBase]:
        """The data points of an alarm's metric since a time in seconds since 1970."""
        first, dimensions = self.moment(since), {d.name: d.value for d in alarm.dimensions}
        return [
            point
            for point in self._watch.metric_data[:]
            if (point.namespace, point.name) == (alarm.namespace, alarm.metric_name)
            and point.timestamp >= first
            and {d.name: d.value for d in point.dimensions} == dimensions
        ]

    @staticmethod
    def moment(seconds: float) -> datetime:
        """Seconds since 1970 as moto's time, UTC without a zone."""
        return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
