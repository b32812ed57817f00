"""Endpoints on SageMaker: `deploy=`, `sagehound predict NAME`, `launch list` and `launch delete=NAME`."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from emulator_helpers import IMAGE, ROLE, client, until
from helpers import Command
from request_helpers import ACCOUNT, config, held

from sagehound.artifact import archive
from sagehound.errors import ConfigError
from sagehound_launchers.config import Aws
from sagehound_launchers.config.endpoint_names import FORM, endpoint_name
from sagehound_launchers.sagemaker import hosting_requests as hosting
from sagehound_launchers.sagemaker import running_costs
from sagehound_launchers.sagemaker.account import open_session
from sagehound_launchers.sagemaker.requests import check
from sagehound_launchers.stages.deploy import names as names_of
from sagemaker_emulator.server import Emulator

BUCKET = "sagemaker-us-west-2-123456789012"
HERE = ["aws=emulator", "data=demo"]


def there(emulator: Emulator) -> dict[str, list[str]]:
    """The names of what an account has."""
    sm = client(emulator, "sagemaker")
    return {
        "endpoints": [e["EndpointName"] for e in sm.list_endpoints()["Endpoints"]],
        "configs": [c["EndpointConfigName"] for c in sm.list_endpoint_configs()["EndpointConfigs"]],
        "models": [m["ModelName"] for m in sm.list_models()["Models"]],
    }


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("sagemaker", ["deploy.capture_percent=20", "deploy.shadow=other", "+aws.tags.team=hounds"]),
        ("serverless", ["deploy.memory_mb=2048", "deploy.max_concurrency=9"]),
        ("async", ["deploy.max_concurrency=2", "aws.kms_key=key"]),
        ("multi_model", ["deploy.instance_count=2", "aws.subnets=[subnet-1]", "aws.security_groups=[sg-1]"]),
    ],
)
def test_requests(name: str, overrides: list[str]) -> None:
    cfg = config(f"deploy={name}", "model=run", *overrides)
    own = getattr(cfg, "deploy")  # noqa: B009 - the stages add the groups
    model = hosting.model("dogs-1", "dogs", "s3://kennel/m", ACCOUNT, cfg.aws, many=name == "multi_model")
    check("CreateModel", model)
    names = {"main": "dogs-1"} | ({"shadow": "dogs-2"} if own.shadow else {})
    made = hosting.endpoint_config(own, "dogs", names, ACCOUNT, cfg.aws)
    check("CreateEndpointConfig", made)
    held(f"deploy_{name}", {"CreateModel": model, "CreateEndpointConfig": made})


@pytest.mark.parametrize("update", ["canary", "linear", "rolling", "all_at_once"])
def test_an_update_moves_calls_as_chosen(update: str) -> None:
    chosen = [f"deploy.update={update}", "deploy.bake_seconds=60", "deploy.alarms=[a]"]
    cfg = config("deploy=sagemaker", "model=run", *chosen)
    request = hosting.update("dogs", "new", getattr(cfg, "deploy"))  # noqa: B009
    check("UpdateEndpoint", request)
    assert request["DeploymentConfig"]["AutoRollbackConfiguration"] == {"Alarms": [{"AlarmName": "a"}]}
    policy = request["DeploymentConfig"].get("BlueGreenUpdatePolicy")
    assert policy is None if update == "rolling" else policy["TrafficRoutingConfiguration"]["Type"] == update.upper()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["deploy=serverless", "deploy.capture_percent=5"],
            "deploy.capture_percent=5 is of deploy=local",
        ),
        (["deploy=serverless", "deploy.instance_type=ml.g5.xlarge"], "deploy.instance_type=ml.g5.xlarge is of"),
        (["deploy=serverless", "deploy.memory_mb=1000"], "deploy.memory_mb=1000: choose from 1024, 2048"),
        (["deploy=serverless", "deploy.max_concurrency=201"], "takes 200 calls at most"),
        (["deploy=serverless", "aws.subnets=[a]", "aws.security_groups=[b]"], "takes no VPC"),
        (["deploy=sagemaker", "deploy.port=9000"], "deploy.port=9000 is of deploy=local: drop it"),
        (["deploy=sagemaker", "model=[a,b]"], "takes one model, not 2: choose deploy=multi_model"),
        (["deploy=sagemaker", "deploy.alarms=[a]"], "deploy.alarms need time"),
        (["deploy=sagemaker", "deploy.instance_count=3", "deploy.max_instances=2"], "is below deploy.instance_count=3"),
        (["deploy=sagemaker", "+aws.tags.sagehound=x"], "aws.tags.sagehound is Sagehound's own tag"),
        (["deploy=sagemaker", "deploy.endpoint=my_dogs"], "deploy.endpoint=my_dogs: a name has a-z"),
        (["deploy=sagemaker", "deploy.instance_type=ml.m5.lage"], "did you mean ml.m5.large"),
        (["registry=local", "registry.require='test.topp1>1'"], "no such score; choose from top1"),
        (["deploy=sagemaker", "deploy.endpoint=all"], "is not all or idle"),
        (["delete=all", "deploy=sagemaker"], "delete=all is a command of its own"),
    ],
)
def test_what_aws_would_refuse_is_refused_here(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        config(*(["model=run"] if "model=[a,b]" not in overrides and "delete=all" not in overrides else []), *overrides)


@pytest.mark.slow
def test_an_endpoint_from_deployment_to_deletion(
    launch: Command, sagehound: Command, run: Path, run_photos: Path, tmp_path: Path, emulator: Emulator
) -> None:
    done = launch("deploy=sagemaker", f"model={run}", *HERE, "deploy.endpoint=dogs", "hydra.run.dir=first")
    assert done.returncode == 0, done.stderr
    assert "endpoint dogs is in service" in done.stdout
    assert json.loads((tmp_path / "first/endpoint.json").read_text())["endpoint"] == "dogs"
    first = there(emulator)
    photos = run_photos / "test"
    with (run / "predictions.csv").open() as file:
        tested = {r["file"]: r["prediction"] for r in csv.DictReader(file) if r["split"] == "test"}
    done = sagehound("predict", "dogs", str(photos), "--emulator", "--format", "csv", "--output", "answers.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "answers.csv").open() as file:
        answers = {str(Path(r["file"]).relative_to(run_photos)): r["prediction"] for r in csv.DictReader(file)}
    assert answers == tested

    again = launch("deploy=sagemaker", f"model={run}", *HERE, "deploy.endpoint=dogs")
    assert again.returncode == 0, again.stderr
    assert there(emulator) == first, "the same command changes nothing"

    other = launch("deploy=sagemaker", f"model={run}", *HERE, "deploy.endpoint=dogs", "deploy.instance_count=2")
    assert other.returncode == 0, other.stderr
    described = client(emulator, "sagemaker").describe_endpoint(EndpointName="dogs")
    assert described["EndpointConfigName"] not in first["configs"], "updated in place"

    listed = launch("list", "aws=emulator")
    assert listed.returncode == 0, listed.stderr
    assert "$0.23" in listed.stdout, "two machines of $0.115"
    assert "not called for" not in listed.stdout + listed.stderr, "it is younger than a day"
    session = open_session(Aws(name="emulator", folder=str(tmp_path / ".emulator")))
    assert running_costs.calls(session, "dogs", datetime(2020, 1, 1, tzinfo=UTC), 1.0) == 12
    assert "there is nothing to delete" in launch("delete=idle", "aws=emulator").stdout
    typo = launch("delete=cats", "aws=emulator")
    assert (typo.returncode, "created nothing of this name; there is dogs" in typo.stderr) == (2, True)
    done = launch("delete=dogs", "aws=emulator")
    assert done.returncode == 0, done.stderr
    assert there(emulator) == {"endpoints": [], "configs": [], "models": []}
    assert "nothing of Sagehound exists or runs" in launch("list", "aws=emulator").stdout
    missing = sagehound("predict", "dogs", str(photos), "--emulator")
    assert missing.returncode == 3
    assert "no such run or file" in missing.stderr
    assert "no endpoint of this name in us-west-2" in missing.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["serverless", "async"])
def test_other_kinds_answer_the_same(
    launch: Command, sagehound: Command, run: Path, run_photos: Path, tmp_path: Path, emulator: Emulator, kind: str
) -> None:
    done = launch(f"deploy={kind}", f"model={run}", *HERE, "deploy.endpoint=dogs")
    assert done.returncode == 0, done.stderr
    photo = next((run_photos / "test").rglob("*.jpg"))
    here, there = sagehound("predict", str(run), str(photo)), sagehound("predict", "dogs", str(photo), "--emulator")
    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout


@pytest.mark.slow
def test_several_models_behind_one_endpoint(
    launch: Command, sagehound: Command, run: Path, run_photos: Path, tmp_path: Path, emulator: Emulator
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.tar.gz").write_bytes((run / "model.tar.gz").read_bytes())
    photo = str(next((run_photos / "test").rglob("*.jpg")))
    many = ["deploy=multi_model", *HERE, "deploy.endpoint=dogs"]

    def answer(model: str) -> Any:  # noqa: ANN401
        return sagehound("predict", "dogs", photo, "--emulator", "--target-model", model)

    assert launch(*many, "model=[one]").returncode == 0
    assert answer("one").returncode == 0
    assert answer("two").returncode == 3
    before = there(emulator)
    assert launch(*many, "model=[two]").returncode == 0, "a model is added"
    assert there(emulator) == before
    assert answer("two").stdout == answer("one").stdout
    assert launch("delete=dogs/one", "aws=emulator").returncode == 0
    refused = launch("delete=dogs/one", "aws=emulator")
    assert (refused.returncode, "has no such model; it has two" in refused.stderr) == (2, True)
    assert launch("delete=dogs", "aws=emulator").returncode == 0
    assert client(emulator, "s3").list_objects_v2(Bucket=BUCKET, Prefix="sagehound/multi-model/")["KeyCount"] == 0
    assert launch(*many, "model=[two]").returncode == 0
    with (tmp_path / "two/model.tar.gz").open("ab") as file:
        file.write(bytes(100))  # another digest
    changed = launch(*many, "model=[two]")
    assert (changed.returncode, "another model of the name two" in changed.stderr) == (2, True)


@pytest.mark.slow
def test_an_endpoint_that_fails_leaves_nothing(launch: Command, tmp_path: Path, emulator: Emulator, run: Path) -> None:
    archive.unpack(run / "model.tar.gz", tmp_path / "unpacked")
    (tmp_path / "unpacked/model.onnx").write_bytes(b"not a network")
    files = {path.relative_to(tmp_path / "unpacked").as_posix(): path for path in (tmp_path / "unpacked").rglob("*.*")}
    archive.pack(files, tmp_path / "bad/model.tar.gz")
    done = launch("deploy=sagemaker", "model=bad", *HERE, "deploy.endpoint=dogs")
    assert done.returncode == 4
    assert "endpoint dogs: " in done.stderr
    assert "model.onnx" in done.stdout, "the container's log says why"
    assert there(emulator) == {"endpoints": [], "configs": [], "models": []}
    assert "deleted: dogs, " in done.stdout


def foreign(emulator: Emulator, run: Path, name: str) -> None:
    """An endpoint without Sagehound's tag."""
    sm, s3 = client(emulator, "sagemaker"), client(emulator, "s3")
    s3.create_bucket(Bucket="theirs", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    s3.upload_file(str(run / "model.tar.gz"), "theirs", f"multi-model/{name}/prod.tar.gz")
    container = {"Image": IMAGE, "ModelDataUrl": f"s3://theirs/multi-model/{name}/", "Mode": "MultiModel"}
    sm.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=ROLE)
    variant = {"VariantName": "main", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sm.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sm.create_endpoint(EndpointName=name, EndpointConfigName=name)
    until(lambda: sm.describe_endpoint(EndpointName=name), lambda d: d["EndpointStatus"] == "InService")


@pytest.mark.slow
def test_what_others_have_created_is_left_alone(launch: Command, run: Path, tmp_path: Path, emulator: Emulator) -> None:
    foreign(emulator, run, "colleague")
    before = there(emulator)
    refused = launch("deploy=sagemaker", f"model={run}", *HERE, "deploy.endpoint=colleague")
    assert (refused.returncode, "that Sagehound did not create" in refused.stderr) == (2, True)
    refused = launch("delete=colleague/prod", "aws=emulator")
    assert (refused.returncode, "Sagehound has created no endpoint colleague" in refused.stderr) == (2, True)
    assert launch("delete=colleague", "aws=emulator").returncode == 2
    assert "there is nothing to delete" in launch("delete=all", "aws=emulator").stdout
    assert there(emulator) == before
    s3 = client(emulator, "s3")
    assert s3.head_object(Bucket="theirs", Key="multi-model/colleague/prod.tar.gz")["ContentLength"]


@pytest.mark.slow
def test_scaling_follows_the_settings_and_a_lost_configuration_does_not_stop_a_deletion(
    launch: Command, run: Path, tmp_path: Path, emulator: Emulator
) -> None:
    given = ["deploy=sagemaker", f"model={run}", *HERE, "deploy.endpoint=dogs"]
    scaling = client(emulator, "application-autoscaling")

    def targets() -> list[int]:
        found = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        return [target["MaxCapacity"] for target in found]

    scaled = launch(*given, "deploy.max_instances=4")
    assert scaled.returncode == 0, scaled.stderr
    assert targets() == [4]
    assert launch(*given).returncode == 0
    assert targets() == []
    sm = client(emulator, "sagemaker")
    for name in there(emulator)["configs"]:
        sm.delete_endpoint_config(EndpointConfigName=name)
    listed = launch("list", "aws=emulator")
    assert (listed.returncode, "not known" in listed.stdout) == (0, True), listed.stderr
    assert launch("delete=dogs", "aws=emulator").returncode == 0
    assert there(emulator) == {"endpoints": [], "configs": [], "models": []}


@pytest.mark.parametrize(
    ("models", "given", "names"),
    [
        (["outputs/a", "b/model.tar.gz", "c.tar.gz"], [], ["a", "b", "c"]),
        (["outputs/registry/dogs/1/model.tar.gz"], ["registry:dogs@1"], ["dogs"]),
        (["cache/abc/model.tar.gz"], ["registry:sagemaker/dogs"], ["dogs"]),
    ],
)
def test_a_model_is_named_as_its_user_knows_it(models: list[str], given: list[str], names: list[str]) -> None:
    assert list(names_of(models, given)) == names


def test_names_of_endpoints_differ_where_those_of_models_do() -> None:
    long = "a model of dogs with quite a long name, version "
    assert endpoint_name("dogs") == "sagehound-dogs"
    assert endpoint_name("Ünïcode 2,5") == "sagehound-n-code-2-5"
    assert endpoint_name(f"{long}1") != endpoint_name(f"{long}2")
    for name in (f"{long}1", "-" * 60, "a" * 33 + "-b", "x" * 200):
        assert len(endpoint_name(name)) <= 50
        assert FORM.fullmatch(endpoint_name(name))


def test_a_broken_archive_is_not_sent(launch: Command, run: Path, tmp_path: Path, emulator: Emulator) -> None:
    (tmp_path / "model.tar.gz").write_bytes((run / "model.tar.gz").read_bytes()[:5000])
    done = launch("deploy=sagemaker", "model=model.tar.gz", *HERE)
    assert done.returncode == 3, done.stderr
    assert client(emulator, "s3").list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0


def test_secrets_are_refused(launch: Command, run: Path, tmp_path: Path, emulator: Emulator) -> None:
    secret = f"+aws.environment.TOKEN=hf_{'aB3' * 12}"
    done = launch("deploy=sagemaker", f"model={run}", *HERE, "dry_run=true", secret)
    assert done.returncode == 2, done.stdout
    assert "a model's environment" in done.stderr


@pytest.mark.slow
def test_dry_run_sends_nothing(launch: Command, tmp_path: Path, emulator: Emulator) -> None:
    done = launch("deploy=sagemaker", "deploy.instance_type=ml.g5.xlarge", *HERE, "dry_run=true", "hydra.run.dir=dry")
    assert done.returncode == 0, done.stderr
    assert "the image sagehound:latest computes on the CPU, and leaves the GPU idle" in done.stdout
    requests = json.loads((tmp_path / "dry/dry_run/deploy/deploy_requests.json").read_text())
    assert requests["CreateModel"]["PrimaryContainer"]["ModelDataUrl"].endswith("/models/not-trained/model.tar.gz")
    assert there(emulator) == {"endpoints": [], "configs": [], "models": []}
