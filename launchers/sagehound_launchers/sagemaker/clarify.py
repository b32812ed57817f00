"""`bias=sagemaker`: runs a processing job of SageMaker Clarify, and brings its results back."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagehound.bias import analysis
from sagehound.bias.analysis import ANY_CLASS, POST, PRE, RECOGNISED, Analysis, Row
from sagehound.bias.photo_rows import PhotoRows
from sagehound.errors import ConfigError, SagehoundError
from sagehound.storage.atomic import write_json, write_text
from sagehound.system import console
from sagehound_launchers.config import Aws, Launch
from sagehound_launchers.sagemaker import account, clarify_request, job_client, requests
from sagehound_launchers.sagemaker.account import Cloud
from sagehound_launchers.sagemaker.aws_errors import RemoteError, aws_errors, failure
from sagehound_launchers.sagemaker.clarify_request import Place
from sagehound_launchers.sagemaker.job_client import OneJob
from sagehound_launchers.sagemaker.training import print_cost

if TYPE_CHECKING:
    from sagehound_launchers.stages.bias import Bias

_LOGS = "/aws/sagemaker/ProcessingJobs"
_SAME = 1e-6  # difference of two values that are rounded differently
RESULT = "analysis.json"  # Clarify's
# the note on docs.aws.amazon.com/sagemaker/latest/dg/clarify-processing-job-configure-analysis.html
_CLOSED = (
    "SageMaker Clarify is closed to new customers: the job runs only in accounts that used it before; bias=local "
    "computes these measures on this machine"
)


def measure(cfg: Launch, own: "Bias", photos: PhotoRows, folder: Path) -> Analysis | None:
    """Run Clarify's job for the predicted photos of one split, and wait for its results.

    Args:
        cfg: the command's config.
        own: the stage's keys.
        photos: with predictions and groups.
        folder: for the request, and Clarify's analysis.json.

    Returns:
        the measures with Clarify's values; None with dry_run=true.

    Raises:
        ConfigError: AWS needs a setting, or would refuse the request. Nothing was started.
        RemoteError: the job failed.
        Stopped: Ctrl-C or SIGTERM came.
    """
    tested = photos.of_split(own.split)
    tested = clarify_request.filled(tested.where(tested.predictions != ""))
    expected = analysis.analyse(clarify_request.filled(photos), own.split, own.group_by, labelled=own.split)
    _check(own, tested)
    console.info(_CLOSED)
    aws = replace(
        cfg.aws,
        instance_type=own.instance_type,
        instance_count=1,
        volume_gb=clarify_request.VOLUME_GB,
        spot=False,
        max_hours=own.max_minutes / 60,
    )
    cloud = account.connect(aws, dry_run=cfg.dry_run, own_image=False)
    config = json.dumps(clarify_request.analysis_config(tested, own.label, own.group_by), indent=2)
    job = _job(cloud, aws, config, clarify_request.table(tested, own.label))
    requests.check("CreateProcessingJob", job.request(job.name))
    write_json(folder / "request.json", job.request(job.name))
    write_text(folder / "analysis_config.json", config)
    print_cost(cloud, aws, 1)
    if cfg.dry_run:
        console.info(f"dry_run: nothing was sent; CreateProcessingJob: {folder / 'request.json'}")
        return None
    found = _fetch(cloud, job_client.run(cloud, cfg.aws, job), folder)
    return replace(expected, rows=_with_values(found, expected, own.label, clarify_request.sent_values(tested)))


def _job(cloud: Cloud, aws: Aws, config: str, table: str) -> OneJob:
    """The job for a configuration and a table of photos."""
    image = replace(cloud.account, image=clarify_request.image(cloud.region))

    def place(name: str) -> Place:
        base = f"s3://{cloud.account.bucket}/{aws.prefix}/bias/{name}"
        return Place(f"{base}/input/analysis_config.json", f"{base}/input/photos.csv", f"{base}/output")

    def request(name: str) -> dict[str, Any]:
        return clarify_request.processing_job(name, aws, image, place(name))

    return OneJob(
        "processing_job",
        job_client.content_name("sagehound-bias", request("name"), config, table),
        request,
        prepare=lambda name: _upload(cloud, place(name), config, table),
        is_usable=lambda ended: job_client.has_result(cloud, ended, RESULT),
        log=_LOGS,
    )


def _check(own: "Bias", tested: PhotoRows) -> None:
    if taken := clarify_request.OWN_COLUMNS & set(tested.facets):
        raise ConfigError(f"bias=sagemaker: {min(taken)} is a column of the table that is sent: rename yours")
    if own.label is not None and own.label not in tested.classes:
        raise ConfigError(f"bias.label={own.label}: no such class; choose from {', '.join(tested.classes)}")
    if own.label is not None and not set(tested.facets) - {own.group_by}:
        raise ConfigError("bias.label compares groups of photos: give bias.facets=FILE or data.table=FILE")


def _upload(cloud: Cloud, place: Place, config: str, table: str) -> None:
    s3 = cloud.client("s3")
    for uri, text in ((place.config, config), (place.data, table)):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        with aws_errors(f"sending {uri}"):
            s3.put_object(Bucket=bucket, Key=key, Body=text.encode())


def _fetch(cloud: Cloud, ended: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Download an ended job's analysis.json; returns its content."""
    name, uri = ended["ProcessingJobName"], ended["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]["S3Uri"]
    if ended["ProcessingJobStatus"] != "Completed":
        reason = failure(ended.get("ExitMessage") or ended.get("FailureReason") or "no reason was given")
        raise RemoteError(f"job {name}: {ended['ProcessingJobStatus']}: {reason}; its log is printed above")
    bucket, _, key = f"{uri}/{RESULT}".removeprefix("s3://").partition("/")
    with aws_errors(f"fetching the results of {name}, which stay in {uri}"):
        text = cloud.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    write_text(folder / RESULT, text)
    console.info(f"job {name} has ended; its results: {folder / RESULT} and {uri}")
    try:
        content: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise SagehoundError(f"{folder / RESULT} is no JSON ({error})") from error
    return content


def _with_values(
    found: dict[str, Any], expected: Analysis, label: str | None, sent: Mapping[str, Mapping[str, str]]
) -> list[Row]:
    """The expected rows that Clarify has computed too, with its values."""
    outcomes = (ANY_CLASS, RECOGNISED if label is None else label)
    known = {(r.stage, r.facet, r.group, r.measure.name): r for r in expected.rows if r.outcome in outcomes}
    rows, others = [], 0
    for stage in (PRE, POST):
        for facet, groups in found.get(f"{stage}_bias_metrics", {}).get("facets", {}).items():
            for group in groups:
                text = str(group["value_or_threshold"])
                value_of = sent.get(facet, {}).get(text, text)
                for metric in group["metrics"]:
                    if row := known.get((stage, facet, value_of, metric["name"])):
                        value = None if metric.get("value") is None else float(metric["value"])
                        others += (value is None) != (row.value is None) or abs((value or 0) - (row.value or 0)) > _SAME
                        meaning = f"Clarify: {metric.get('error', 'not defined')}" if value is None else row.meaning
                        rows.append(replace(row, value=value, meaning=meaning))
    if others:
        console.warn(
            f"{others} of {len(rows)} values of Clarify differ from bias=local; see docs/bias.md for the reasons"
        )
    return rows
