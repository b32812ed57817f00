"""Jobs, endpoints and the last requests as HTML. The page only reads, and names no address but its own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, StrictUndefined

from sagemaker_emulator.regions import Region, Regions
from sagemaker_emulator.status_page.request_log import RequestLog
from sagemaker_emulator.storage.records import Record
from sagemaker_emulator.web import Request, Response

_MOST = 50  # resources of a kind
_LINES = 500  # lines of a log
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class _Kind:
    """One kind of resource: its records, and the prefix of their members."""

    title: str
    prefix: str
    logs: str = ""  # the log group of all of a kind; "": each has its own


_KINDS = {  # by the kind of their records
    "training-job": _Kind("Training jobs", "TrainingJob", "/aws/sagemaker/TrainingJobs"),
    "tuning-job": _Kind("Tuning jobs", "HyperParameterTuningJob", "/aws/sagemaker/TrainingJobs"),
    "processing-job": _Kind("Processing jobs", "ProcessingJob", "/aws/sagemaker/ProcessingJobs"),
    "transform-job": _Kind("Transform jobs", "TransformJob", "/aws/sagemaker/TransformJobs"),
    "pipeline-execution": _Kind("Executions of pipelines", "PipelineExecution"),
    "endpoint": _Kind("Endpoints", "Endpoint"),
}


def wants_page(call: Request) -> bool:
    """Whether a browser asks for the page; AWS's clients sign their requests, or do not ask for HTML."""
    is_html = "text/html" in call.headers.get("Accept", "") and "Authorization" not in call.headers
    return call.path == "/" and call.method in ("GET", "HEAD") and is_html


class StatusPage:
    """The page at /: an overview, or one job or endpoint with its log and metrics."""

    def __init__(self, regions: Regions, log: RequestLog) -> None:
        self._regions, self._log = regions, log
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        environment.filters["moment"] = _moment
        self._template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))

    def respond(self, call: Request) -> Response:
        """The page; an error of one line if the request names an unknown resource."""
        query = {name: values[0] for name, values in parse_qs(call.query).items()}
        names = self._regions.all()
        name = query.get("region", self._regions.name)
        name = name if name in names else self._regions.name
        region = names.get(name, self._regions.first)
        one = _one(region, query) if query.keys() & {"kind", "name"} else None
        if query.keys() & {"kind", "name"} and one is None:
            return Response(b"there is no such job or endpoint\n", 404, {"Content-Type": "text/plain"})
        with region.records.lock:
            page = self._template.render(
                region=name,
                regions=sorted(names),
                one=one,
                kinds=[_listed(region, kind) for kind in _KINDS],
                requests=self._log.entries(),
            )
        return Response(page.encode(), 200, _HEADERS)


def _listed(region: Region, kind: str) -> dict[str, Any]:
    """The newest resources of a kind, the newest first."""
    shown = _KINDS[kind]
    records = sorted(region.records.all(kind), key=lambda r: r["CreationTime"], reverse=True)
    rows = [
        {
            "key": record.get(f"{shown.prefix}Name") or record["_Id"],
            "name": record.get(f"{shown.prefix}Name") or record["PipelineExecutionDisplayName"],
            "status": record[f"{shown.prefix}Status"],
            "created": record["CreationTime"],
            "reason": record.get("FailureReason", ""),
        }
        for record in records[:_MOST]
    ]
    return {"kind": kind, "title": shown.title, "rows": rows, "more": len(records) - len(rows)}


def _one(region: Region, query: Mapping[str, str]) -> dict[str, Any] | None:
    """One resource with its metrics and its log; None if it does not exist."""
    kind, name = query.get("kind", ""), query.get("name", "")
    record = region.records.find(kind, name) if kind in _KINDS else None
    if record is None:
        return None
    shown = _KINDS[kind]
    with region.records.lock:
        content = {"title": shown.title, "name": name, "metrics": _metrics(record), "steps": _steps(region, record)}
        steps = {step: _public(state) for step, state in record.get("_Steps", {}).items()}
        public = _public(record) | ({"Steps": steps} if steps else {})
        content["members"] = json.dumps(public, indent=2, ensure_ascii=False)
    return content | {"log": None if kind == "pipeline-execution" else _log(region, kind, name)}


def _public(record: Record) -> Record:
    """A record without the emulator's own members, whose names begin with an underscore."""
    return {name: value for name, value in record.items() if name[0] != "_"}


def _log(region: Region, kind: str, name: str) -> list[tuple[str, float, str]]:
    """The last lines of a job or an endpoint; of a tuning job, what its training jobs print."""
    group = _KINDS[kind].logs
    prefix = f"{name}-" if kind == "tuning-job" else f"{name}/"
    return region.aws.read_log(group or f"/aws/sagemaker/Endpoints/{name}", prefix if group else "", _LINES)


def _steps(region: Region, record: Record) -> list[dict[str, Any]]:
    """The steps of a pipeline's execution that have begun, in their order, each with its job if the page shows it."""
    steps = [step for step in record.get("_Steps", {}).values() if "StartTime" in step]
    rows = []
    for step in sorted(steps, key=lambda s: s["StartTime"]):
        arns = [about["Arn"] for about in step.get("Metadata", {}).values() if "Arn" in about]
        kind, _, job = arns[0].rpartition(":")[2].partition("/") if arns else ("", "", "")
        kind = "tuning-job" if kind == "hyper-parameter-tuning-job" else kind
        is_shown = kind in _KINDS and region.records.find(kind, job) is not None
        rows.append(
            {
                "name": step["StepName"],
                "status": step["StepStatus"],
                "created": step["StartTime"],
                "reason": step.get("FailureReason", ""),
                "kind": kind if is_shown else "",
                "key": job,
            }
        )
    return rows


def _metrics(record: Record) -> list[tuple[str, object, float]]:
    """Name, last value and time of each metric."""
    metrics = record.get("FinalMetricDataList", [])
    return [(metric["MetricName"], metric["Value"], metric["Timestamp"]) for metric in metrics]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
