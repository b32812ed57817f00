"""The page at / in a real browser: Debian's chromium, without a window."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import urllib3
from axe_playwright_python.sync_playwright import Axe
from botocore.exceptions import ClientError
from emulator_helpers import BUCKET, IMAGE, ROLE, Client, client, control, ended, job, until
from playwright.sync_api import Browser, expect

from sagemaker_emulator.server import Emulator

HTML = {"Accept": "text/html"}
EVIL = "<img src=x onerror=alert(1)>"


def unwritable(name: str) -> dict[str, Any]:
    """A processing job that fails without a process: the bucket of its output does not exist."""
    output = {"S3Uri": "s3://missing/out", "LocalPath": "/opt/ml/processing/out", "S3UploadMode": "EndOfJob"}
    cluster = {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1}
    return {
        "ProcessingJobName": name,
        "ProcessingResources": {"ClusterConfig": cluster},
        "AppSpecification": {"ImageUri": IMAGE},
        "ProcessingOutputConfig": {"Outputs": [{"OutputName": "out", "S3Output": output}]},
        "RoleArn": ROLE,
    }


@pytest.mark.slow
def test_jobs_logs_metrics_and_requests_are_shown(emulator: Emulator, sm: Client, browser: Browser) -> None:
    metrics = {"MetricDefinitions": [{"Name": "loss", "Regex": "loss=([0-9.]+)"}]}
    code = f"print('loss=0.25'); print({EVIL!r}); raise SystemExit({EVIL!r})"
    sm.create_training_job(**job("evil", code, algorithm=metrics))
    assert ended(sm, "evil")["TrainingJobStatus"] == "Failed"
    for number in range(52):
        sm.create_processing_job(**unwritable(f"wide-{'w' * 50}-{number}"))
    fail = {"Name": "End", "Type": "Fail", "Arguments": {"ErrorMessage": "no photos"}}
    definition = json.dumps({"Version": "2020-12-01", "Steps": [fail]})
    sm.create_pipeline(PipelineName="p", ClientRequestToken="t" * 32, PipelineDefinition=definition, RoleArn=ROLE)
    sm.start_pipeline_execution(PipelineName="p", PipelineExecutionDisplayName="execution-of-dogs")
    with pytest.raises(ClientError):
        sm.list_workteams()
    control(emulator, "faults", [{"operation": "ListModels", "kind": "throttle"}])
    with pytest.raises(ClientError):
        sm.list_models()
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)  # type: ignore[arg-type]
        asked: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(emulator.url)
        expect(page.locator("body")).to_contain_text("2 older ones are not shown.")
        for _ in range(2):
            results = Axe().run(page)
            assert results.violations_count == 0, results.generate_report()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            page.goto(f"{emulator.url}/?kind=training-job&name=evil")
        expect(page.get_by_role("row", name="loss 0.25")).to_be_visible()
        expect(page.locator("pre").first).to_contain_text(EVIL)
        assert page.locator("img, script").count() == 0
        page.get_by_role("link", name="Overview").click()
        page.get_by_role("link", name="execution-of-dogs").click()
        expect(page.locator("pre")).to_contain_text("no photos")
        page.get_by_role("link", name="Overview").click()
        rows = page.get_by_role("row")
        expect(rows.filter(has_text="ListWorkteams")).to_contain_text("501 not executed")
        expect(rows.filter(has_text="ListModels")).to_contain_text("400 not executed")
        expect(rows.filter(has_text="CreateTrainingJob").first).not_to_contain_text("not executed")
        assert [url for url in asked if not url.startswith(emulator.url)] == []
        page.close()


def read(emulator: Emulator, query: str = "") -> str:
    return urllib3.request("GET", f"{emulator.url}/{query}", headers=HTML).data.decode()


@pytest.mark.slow
def test_the_newest_are_first_also_after_a_restart(tmp_path: Path) -> None:
    names = [f"job-{number:02}" for number in reversed(range(51))]  # the newest is the first by name
    with Emulator(tmp_path / "e") as emulator:
        for name in names:
            client(emulator, "sagemaker").create_processing_job(**unwritable(name))
    with Emulator(tmp_path / "e") as emulator:
        shown = re.findall(r">(job-\d\d)</a>", read(emulator))
    assert shown == names[:0:-1]


def test_an_execution_shows_its_steps_with_links_to_their_jobs(emulator: Emulator, sm: Client) -> None:
    train = {k: v for k, v in job("x", "raise SystemExit('no photos')").items() if k != "TrainingJobName"}
    fail = {"Name": "End", "Type": "Fail", "DependsOn": ["Never"], "Arguments": {"ErrorMessage": "x"}}
    two = [{"Name": name, "Type": "Training", "Arguments": train} for name in ("Learn", "Never")]
    two[1]["DependsOn"] = ["Learn"]
    definition = json.dumps({"Version": "2020-12-01", "Steps": [*two, fail]})
    sm.create_pipeline(PipelineName="p", ClientRequestToken="t" * 32, PipelineDefinition=definition, RoleArn=ROLE)
    arn = sm.start_pipeline_execution(PipelineName="p")["PipelineExecutionArn"]
    until(
        lambda: sm.describe_pipeline_execution(PipelineExecutionArn=arn)["PipelineExecutionStatus"],
        lambda status: status == "Failed",
    )
    (step,) = sm.list_pipeline_execution_steps(PipelineExecutionArn=arn)["PipelineExecutionSteps"]
    name = step["Metadata"]["TrainingJob"]["Arn"].rpartition("/")[2]
    page = read(emulator, f"?kind=pipeline-execution&name={arn.rpartition('/')[2]}")
    (link,) = re.findall(r'<a href="/(\?[^"]*)">Learn</a>', page)
    assert f"Training jobs: {name}" in read(emulator, html.unescape(link))
    assert "AlgorithmError" in page
    for text in ("No metrics.", "The log is empty.", ">Never<", "_Job", "_Key", "_Token", "_Steps"):
        assert text not in page, text
    assert "&#34;Steps&#34;" in page


def test_the_page_is_for_this_machine_only_and_clients_of_aws_get_no_page(emulator: Emulator, s3: Client) -> None:
    page = urllib3.request("GET", emulator.url, headers=HTML)
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
        assert urllib3.request("GET", emulator.url, headers={**HTML, "Host": host}).status == 403
    assert urllib3.request("GET", emulator.url, headers={**HTML, "Host": "localhost:1"}).status == 200
    assert urllib3.request("GET", f"{emulator.url}/?kind=x&name=y", headers=HTML).status == 404
    assert b"nowhere" not in urllib3.request("GET", f"{emulator.url}/?region=nowhere", headers=HTML).data
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == [BUCKET]


def test_a_page_of_another_site_cannot_use_the_emulator(emulator: Emulator) -> None:
    target = {"X-Amz-Target": "SageMaker.ListModels"}
    for origin in ("http://evil.example", "null", "http://127.0.0.1.evil.example"):
        for method in ("POST", "OPTIONS"):  # browsers send OPTIONS first to learn what a page may do
            more = {"Origin": origin, "Access-Control-Request-Headers": "x-amz-target"}
            answer = urllib3.request(method, emulator.url, body=b"{}", headers=target | more)
            assert (answer.status, "Access-Control-Allow-Origin" in answer.headers) == (403, False)
    own = urllib3.request("POST", emulator.url, body=b"{}", headers=target | {"Origin": emulator.url})
    assert json.loads(own.data) == {"Models": []}
    assert client(emulator, "sagemaker").list_models()["Models"] == []
