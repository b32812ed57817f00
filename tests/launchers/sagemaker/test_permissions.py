"""`launch permissions`: its statements, evaluated for the requests that the stages really send."""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient
from emulator_helpers import client
from helpers import Command
from request_helpers import config

from sagehound.errors import SagehoundError
from sagehound_launchers.packages import find
from sagehound_launchers.sagemaker import permissions
from sagehound_launchers.workflow import run as workflow_run
from sagehound_launchers.workflow.plan import Step, Workflow
from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings

Policy = dict[str, Any]
NUMBER, REGION = "123456789012", "us-west-2"
OWN = f"sagemaker-{REGION}-{NUMBER}"
_S3 = {  # by the operation; AWS: "Actions defined by Amazon S3"
    "HeadBucket": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "HeadObject": "GetObject",
    "DeleteObjects": "DeleteObject",
}
_NAMED = {  # the kind in an ARN, by the member of a request that names the resource
    "TransformJobName": "transform-job",
    "ProcessingJobName": "processing-job",
    "ModelName": "model",
    "ModelPackageGroupName": "model-package-group",
}


def allows(policy: Policy, action: str, resource: str, context: dict[str, str]) -> bool:
    """Whether a statement allows the action, as "Policy evaluation logic" of the IAM User Guide says."""

    def fits(statement: Policy) -> bool:
        tests = [t for operator in statement.get("Condition", {}).values() for t in operator.items()]
        return (
            any(fnmatchcase(action, pattern) for pattern in statement["Action"])
            and any(fnmatchcase(resource, pattern) for pattern in statement["Resource"])
            and all(
                key in context
                and any(fnmatchcase(context[key], v) for v in ([given] if isinstance(given, str) else given))
                for key, given in tests
            )
        )

    return any(map(fits, policy["Statement"]))


def needs(service: str, operation: str, given: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """What AWS checks for a request: action, resource and the keys of conditions."""
    context = {f"aws:RequestTag/{tag['Key']}": tag["Value"] for tag in given.get("Tags", [])}
    if service == "s3":
        path = f"{given['Bucket']}/{given['Key']}" if "Key" in given else given["Bucket"]
        yield f"s3:{_S3.get(operation, operation)}", f"arn:aws:s3:::{path}", {}
        return
    if service == "logs":
        yield f"logs:{operation}", f"arn:aws:logs:{REGION}:{NUMBER}:log-group:{given['logGroupName']}:*", {}
        return
    if service in ("sts", "iam"):
        yield f"{service}:{operation}", f"arn:aws:iam::{NUMBER}:role/{given.get('RoleName', '')}", {}
        return
    resource = given.get("ResourceArn") or given.get("ModelPackageName") or given.get("ModelPackageArn") or ""
    if not resource:
        member = next(name for name in _NAMED if name in given)
        resource = f"arn:aws:sagemaker:{REGION}:{NUMBER}:{_NAMED[member]}/{given[member]}"
    yield f"sagemaker:{operation}", resource, context
    if context:
        yield "sagemaker:AddTags", resource, context
    if role := given.get("RoleArn") or given.get("ExecutionRoleArn"):
        yield "iam:PassRole", role, {"iam:PassedToService": "sagemaker.amazonaws.com"}


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    """SageMaker, whose containers end at once."""
    code = [sys.executable, "-c", "raise SystemExit('stop')"]
    images = {"sagehound": {"process": code, "serve": code}}
    with Emulator(tmp_path / ".emulator", settings=Settings(variables=("SAGEHOUND_CACHE",), images=images)) as running:
        s3 = client(running, "s3")
        s3.create_bucket(Bucket="others", CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_object(Bucket="others", Key="photos/a.jpg", Body=b"no photo")
        s3.put_object(Bucket="others", Key="captured/a.jsonl", Body=b"{}")
        yield running


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, Any]]]:
    """Every request of boto3: service, operation and parameters."""
    requests: list[tuple[str, str, dict[str, Any]]] = []
    real: Any = getattr(BaseClient, "_make_api_call")  # noqa: B009 - boto3's events do not have the parameters

    def call(self: BaseClient, operation: str, given: Any) -> Any:  # noqa: ANN401 - boto3's
        requests.append((self.meta.service_model.service_name, operation, given))
        return real(self, operation, given)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    return requests


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "operation"),
    [
        (["registry=sagemaker", "registry.group=dogs"], "CreateModelPackage"),
        (["transform=sagemaker", "data.s3=s3://others/photos"], "CreateTransformJob"),
        (["transform=sagemaker", "data=folder", "data.root=mine"], "CreateTransformJob"),
        (["monitor=sagemaker", "monitor.captured=s3://others/captured"], "CreateProcessingJob"),
        (["monitor=local", "monitor.captured=s3://others/captured"], "GetObject"),
    ],
)
def test_the_callers_policy_allows_what_a_stage_sends(
    emulator: Emulator,
    run: Path,
    run_photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sent: list[tuple[str, str, dict[str, Any]]],
    overrides: list[str],
    operation: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").symlink_to(run_photos / "test/002.Slate")
    cfg = config(f"model={run}", "aws=emulator", f"aws.folder={emulator.folder}", *overrides)
    ((stage, own),) = cfg.stages
    before = len(sent)
    with suppress(SagehoundError):  # the containers do nothing
        stage.run(cfg, own, [str(run)], tmp_path)
    if stage.name == "registry":
        find.approve("sagemaker/dogs@1", cfg)
    requests = sent[before:]
    assert operation in [one[1] for one in requests]
    policy = permissions.caller(permissions.scope_of(cfg, REGION, NUMBER))
    asked = [need for request in requests for need in needs(*request)]
    assert [need for need in asked if not allows(policy, *need)] == []
    assert not allows(policy, "s3:GetObject", "arn:aws:s3:::strangers/a", {})
    assert not allows(policy, "sagemaker:CreateModel", f"arn:aws:sagemaker:{REGION}:{NUMBER}:model/a", {}), "no tag"


def printed(launch: Command, *arguments: str) -> dict[str, Policy]:
    done = launch("permissions", "aws=emulator", *arguments)
    assert done.returncode == 0, done.stderr
    policies: dict[str, Policy] = json.loads(done.stdout[done.stdout.index("{\n") :])
    return policies


def actions(policy: Policy) -> set[str]:
    return {action for statement in policy["Statement"] for action in statement["Action"]}


@pytest.mark.slow
def test_each_choice_gets_what_it_needs_and_no_more(launch: Command, emulator: Emulator) -> None:
    given = ["model=run", "monitor=sagemaker", "monitor.captured=s3://others/captured"]
    policies = printed(launch, *given, "aws.image=210987654321.dkr.ecr.eu-west-1.amazonaws.com/other/hounds:1")
    assert "sagemaker:CreateProcessingJob" in actions(policies["caller"])
    assert "sagemaker:CreateEndpoint" not in actions(policies["caller"])
    assert "ecr:DescribeImages" not in actions(policies["caller"])
    hounds = "arn:aws:ecr:eu-west-1:210987654321:repository/other/hounds"
    assert allows(policies["role"], "ecr:BatchGetImage", hounds, {})
    assert not allows(policies["role"], "ecr:BatchGetImage", hounds.replace("other/hounds", "sagehound"), {})
    assert allows(policies["role"], "s3:GetObject", "arn:aws:s3:::others/captured/a.jsonl", {})
    assert not allows(policies["role"], "s3:PutObject", "arn:aws:s3:::others/captured/a.jsonl", {})
    probed = printed(launch, "probe=sagemaker", "endpoint=dogs", "data=demo")["caller"]
    assert allows(probed, "sagemaker:InvokeEndpoint", f"arn:aws:sagemaker:{REGION}:{NUMBER}:endpoint/dogs", {})
    assert "sagemaker:CreateModel" not in actions(probed)
    china = printed(launch, "model=run", "registry=sagemaker", "data=demo", "aws.region=cn-north-1")
    text = json.dumps([china["caller"], china["role"]])
    assert "arn:aws-cn:s3:::sagemaker-cn-north-1-" in text
    assert "arn:aws:" not in text


def test_a_missing_permission_does_not_hide_the_step_that_failed(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError

    from sagehound_launchers.sagemaker.account import open_session

    def call(self: BaseClient, operation: str, given: Any) -> Any:  # noqa: ANN401 - boto3's
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": operation}}, operation)

    cfg = config("model=run", "registry=sagemaker", "aws=emulator", f"aws.folder={emulator.folder}")
    session = open_session(cfg.aws)
    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    step = Step("registry", [], sends=True)
    error = workflow_run._failed(Workflow(tmp_path, [step], cfg), step, session, 1)
    assert str(error).startswith("step registry failed; what exists on SageMaker is not known (listing every endpoint")
    assert str(error).endswith("the same command continues there")
