"""Requests to SageMaker: what a config becomes, held against the files in golden/ and against AWS's own model."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from request_helpers import ACCOUNT, config, held

from sagehound.cli.hyperparameters import values as read_back
from sagehound.errors import ConfigError
from sagehound_launchers.sagemaker import monitoring_job
from sagehound_launchers.sagemaker.requests import (
    Channel,
    check,
    hyperparameters,
    training_job,
    tuning_job,
)
from sagehound_launchers.search.space import parse
from sagemaker_emulator.request_validation import problems

CHANNELS = [
    Channel("code", "s3://kennel/sagehound/code/abc/"),
    Channel("photos", "s3://kennel/sagehound/photos/manifests/def.manifest", manifest=True),
]


SPOT = [
    "aws.spot=true",
    "aws.max_hours=2",
    "aws.kms_key=alias/kennel",
    "aws.subnets=[subnet-1]",
    "aws.security_groups=[sg-1]",
    "+aws.tags.team=hounds",
    "+aws.environment.LOUD=1",
    "aws.instance_count=2",
]


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("training", []), ("training_spot_vpc_kms", SPOT), ("training_fast_file", ["aws.input_mode=FastFile"])],
)
def test_a_training_job(name: str, overrides: list[str]) -> None:
    fast = overrides == ["aws.input_mode=FastFile"]
    channels = [CHANNELS[0], Channel("photos", "s3://kennel/dogs/")] if fast else CHANNELS
    given = hyperparameters(["data=demo", "backbone=resnet34", "optimizer.lr=0.01", *overrides])
    request = training_job("sagehound-1", config(*overrides), ACCOUNT, given, channels, "token")
    check("CreateTrainingJob", request)
    held(name, request)


@pytest.mark.parametrize(
    ("name", "overrides", "sweep"),
    [
        ("tuning", [], "optimizer.lr=tag(log,interval(1e-4,1e-1))"),
        ("tuning_grid", ["hpo.strategy=Grid"], "optimizer.lr=0.1,0.01"),
        ("tuning_hyperband", ["hpo.strategy=Hyperband", "trainer.max_epochs=9"], "optimizer.lr=interval(0.1,1)"),
        (
            "tuning_warm",
            [
                *("hpo.warm_start=[earlier]", "hpo.early_stopping=true", "hpo.direction=maximize"),
                *("hpo.objective=valid.top1", *SPOT),
            ],
            "trainer.accumulate=range(1,4)",
        ),
    ],
)
def test_a_tuning_job(name: str, overrides: list[str], sweep: str) -> None:
    cfg = config("hpo=sagemaker", "hpo.max_jobs=6", "hpo.max_parallel_jobs=2", *overrides)
    space = parse([sweep, "data.batch_size=32,64", "data=demo"])
    request = tuning_job("sagehound-1", cfg, ACCOUNT, space, hyperparameters(space.fixed), CHANNELS, "token")
    check("CreateHyperParameterTuningJob", request)
    held(name, request)


@pytest.mark.parametrize(
    ("name", "overrides"), [("monitoring", []), ("monitoring_vpc_kms", [*SPOT, "aws.max_hours=200"])]
)
def test_a_monitoring_job(name: str, overrides: list[str]) -> None:
    model, captured = "s3://kennel/sagehound/models/abc/model.tar.gz", "s3://kennel/captured/dogs"
    given = ["monitor.window=200", "seed=0"]
    request = monitoring_job.job_request("sagehound-1", config(*overrides), ACCOUNT, model, captured, given)
    check("CreateProcessingJob", request)
    held(name, request)


def test_disks_take_a_key_unless_they_are_local() -> None:
    for instance, has_key in (("ml.m5.xlarge", True), ("ml.p3.2xlarge", True), ("ml.g4dn.xlarge", False)):
        cfg = config("trainer=sagemaker", "aws.kms_key=1234abcd-12ab", f"aws.instance_type={instance}")
        request = training_job("sagehound-1", cfg, ACCOUNT, {}, CHANNELS, "token")
        assert request["ResourceConfig"].get("VolumeKmsKeyId") == ("1234abcd-12ab" if has_key else None)
        assert request["OutputDataConfig"]["KmsKeyId"] == "1234abcd-12ab"


def test_what_is_of_this_machine_stays_here() -> None:
    given = [
        *(
            "trainer=sagemaker",
            "aws=emulator",
            "aws.region=eu-west-1",
            "hydra.run.dir=x",
            "hydra/launcher=y",
            "trainer.num_nodes=3",
        ),
        *(
            "data.root=/photos",
            "data.s3=s3://a/b",
            "backbone.weights=w.pth",
            "hpo=optuna",
            "hpo/space=adam",
            "dry_run=true",
        ),
        *("best=multirun/x", "cache.dir=/c", "resume=null", "image=ecr", "optimizer.lr=1", "optimizer.lr=2"),
        *("trainer.max_epochs=3", "+optimizer.foo=1", "~augment", "backbone=resnet18", 'a="64"'),
    ]
    assert hyperparameters(given) == {
        "optimizer.lr": "2",
        "trainer.max_epochs": "3",
        "+optimizer.foo": "1",
        "~augment": "",
        "backbone": "resnet18",
        "a": '"\\"64\\""',
    }
    assert hyperparameters(["backbone.weights=pkg://a/b.pth"]) == {"backbone.weights": "pkg://a/b.pth"}
    with pytest.raises(ConfigError, match="resume= continues a run of this machine"):
        hyperparameters(["resume=last"])


VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20).filter(
    lambda text: "${" not in text  # a job refuses values that are looked up
)


@settings(max_examples=100)
@given(st.dictionaries(st.from_regex(r"[a-z]\w{0,9}\.[a-z]\w{0,9}", fullmatch=True), VALUES, max_size=5))
def test_what_comes_back_is_what_was_sent(point: dict[str, str]) -> None:
    sent = hyperparameters([f"{key}={value}" for key, value in point.items()])
    kept = {k: v for k, v in point.items() if k in sent}
    assert read_back(sent | {"_tuning_objective_metric": "x"}) == kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"TrainingJobName": "a_b"}, "TrainingJobName: 'a_b' does not have the form"),
        ({"RoleArn": 5}, "RoleArn"),
        ({"HyperParameters": {str(i): "x" for i in range(101)}}, "101 entries, at most 100 are allowed"),
        ({"HyperParameters": {"a": "x" * 2501}}, "2501 characters, at most 2500"),
        ({"Surplus": 1}, 'Unknown parameter in input: "Surplus"'),
        ({"ResourceConfig": {"InstanceType": "ml.huge", "InstanceCount": 1, "VolumeSizeInGB": 1}}, "is none of AWS's"),
    ],
)
def test_aws_rules_are_known_without_aws(change: dict[str, Any], message: str) -> None:
    request = training_job("a", config(), ACCOUNT, {}, CHANNELS, "token")
    assert problems("CreateTrainingJob", request) == []
    with pytest.raises(ConfigError, match="which SageMaker would refuse") as caught:
        check("CreateTrainingJob", request | change)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
