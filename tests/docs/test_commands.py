"""Every command of README and docs really runs, with small photos and a small backbone; the guides have a test."""

import csv
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import forked
import pytest
from docs_commands import commands, pages
from emulator_helpers import client
from helpers import ROOT, Server, make_photos

from sagemaker_emulator.server import Emulator

TESTED_ELSEWHERE = {  # a word of the command, and the test that runs it
    "deploy=local": "tests/serving, which needs a server that goes on",
    "image=ecr": "tests/launchers/sagemaker/test_job_client.py, with a docker of its own",
    "logger=[tensorboard,csv,mlflow,wandb]": "tests/evaluation/test_loggers.py",
    "trainer.num_nodes=2": "tests/launchers/sagemaker/test_training.py, with two instances",
    "monitor.captured=": "tests/launchers/test_monitor.py, with captured requests",
    "registry:dogs": "tests/launchers/sagemaker/test_model_registry.py, with an approved version",
    "probe=sagemaker": "the guide From local to SageMaker, with an endpoint",
    "delete=": "tests/launchers/sagemaker/test_deploy.py, with endpoints",
    "approve=NAME@VERSION": "approve=dogs@1",
    "-m hpo=optuna trainer=sagemaker": "tests/e2e/test_workflow.py, with jobs",
}
CALLS = [c for c in commands(pages(ROOT / "docs/guides")) if not any(word in c[1] for word in TESTED_ELSEWHERE)]
WITHOUT_CONFIG = ("permissions", "list", "approve=")


class Place(NamedTuple):
    """A folder with all that the commands name."""

    folder: Path
    weights: Path
    url: str  # of a server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run: Path, run_photos: Path, weights: Path) -> Iterator[Place]:
    forked.begin_test()
    folder = tmp_path_factory.mktemp("docs")
    make_photos(folder / "PATH", train=8, valid=3, test=4)
    make_photos(folder / "PHOTOS", test=4)
    (folder / "RUN").symlink_to(run)
    photos = sorted(path.relative_to(run_photos).as_posix() for path in run_photos.rglob("test/*/*.jpg"))
    for name in ("FILE", "groups.csv"):
        write(folder / name, [("file", "camera"), *((photo, "ab"[i % 2]) for i, photo in enumerate(photos))])
    write(folder / "suspects.csv", [("file", "action"), ("train/003.Moss/000.jpg", "drop")])
    registered = ["registry=local", "model=RUN", "registry.group=dogs", "data=demo", "hydra.run.dir=outputs/dogs"]
    assert forked.run(ROOT / "launch.py", folder, registered, timeout=300).returncode == 0
    server = Server(folder / "server", "model=" + str(run))
    yield Place(folder, weights, server.url)
    assert server.stop() == (143, "")


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def account(place: Place) -> Iterator[dict[str, str]]:
    """The variables of an account that has a role and a bucket with photos."""
    with Emulator(place.folder / ".emulator") as emulator:
        role = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}}]}
        client(emulator, "iam").create_role(RoleName="NAME", AssumeRolePolicyDocument=json.dumps(role))
        s3 = client(emulator, "s3")
        s3.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
        s3.put_object(Bucket="bucket", Key="PREFIX/a.jpg", Body=b"photo")
        yield {
            "HOME": str(place.folder),
            "AWS_ENDPOINT_URL": emulator.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-west-2",
        }


def test_the_other_tests_exist() -> None:
    for test in TESTED_ELSEWHERE.values():
        for path in re.findall(r"tests/[\w/.]+", test):
            assert (ROOT / path).exists(), test


@pytest.mark.slow
@pytest.mark.parametrize(("program", "given"), CALLS)
def test_a_command_of_the_pages_runs(
    program: str, given: str, place: Place, account: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (account | {"SAGEHOUND_CACHE": str(place.folder / "cache")}).items():
        monkeypatch.setenv(name, value)
    number = CALLS.index((program, given))
    own = (
        [] if given.startswith(WITHOUT_CONFIG) else [f"hydra.{kind}.dir={kind}s/{number}" for kind in ("run", "sweep")]
    )
    if "sagemaker" in given and not given.startswith(WITHOUT_CONFIG):  # requests are written instead of sent
        own += ["dry_run=true", *([] if "aws=emulator" in given else ["aws.image=x"])]
        own += [] if "aws." in given or "aws=" in given else ["aws.role=NAME"]
    if program == "train" or any(word in given for word in ("hpo=", "trainer=", "pipeline=")):
        own += ["backbone.name=test_resnet", f"backbone.weights={place.weights}", "trainer.max_epochs=1"]
        own += ["trainer.accelerator=cpu", *([] if "data=" in given else ["data=folder", "data.root=PATH"])]
        if program == "train" and "-m" not in given:
            own += ["artifact=false", *([] if "results=" in given else ["results=tables"])]
    own += ["hpo.max_jobs=2"] if "hpo=" in given else []
    words = shlex.split(
        given.replace("http://127.0.0.1:8080", place.url).replace("//BUCKET", "//bucket"), comments=True
    )
    words = [word.replace("test.top1>=0.85", "test.top1>=0.5") for word in words]  # what the small model reaches
    done = forked.run(ROOT / f"{program}.py", place.folder, [*words, *own], timeout=300)
    assert done.returncode == 0, f"{shlex.join([*words, *own])}\n{done.stderr[-3000:]}\n{done.stdout[-1000:]}"
