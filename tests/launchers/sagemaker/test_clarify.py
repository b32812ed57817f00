"""`bias=sagemaker`: the request, and a job that really runs in the emulator with Clarify's files."""

import csv
import json
import os
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from emulator_helpers import client
from helpers import ROOT, Command

from sagehound.bias.measures import ONE_VS_REST
from sagehound.bias.photo_rows import PhotoRows
from sagehound.errors import ConfigError
from sagehound.storage.atomic import read_csv
from sagehound_launchers.config import Aws
from sagehound_launchers.emulated_image import CLARIFY
from sagehound_launchers.sagemaker import clarify_request
from sagehound_launchers.sagemaker.clarify_request import Place
from sagehound_launchers.sagemaker.requests import Account, check
from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings

PLACE = Place("s3://kennel/in/analysis_config.json", "s3://kennel/in/photos.csv", "s3://kennel/out")
IMAGE = "sagemaker-clarify-processing"
VPC = {"kms_key": "alias/kennel", "subnets": ["subnet-1"], "security_groups": ["sg-1"], "tags": {"team": "hounds"}}
ACCOUNT = Account(
    "eu-west-1",
    "111122223333",
    "arn:aws:iam::111122223333:role/Hound",
    "kennel",
    f"131013547314.dkr.ecr.eu-west-1.amazonaws.com/{IMAGE}:1.0",
)


def held(name: str, request: dict[str, Any]) -> None:
    """Compare with the file; SAGEHOUND_UPDATE_GOLDEN=1 writes it anew, to be read before it is kept."""
    path = Path(__file__).parent / "golden" / f"{name}.json"
    if os.environ.get("SAGEHOUND_UPDATE_GOLDEN"):
        path.write_text(json.dumps(request, indent=2) + "\n")
    assert request == json.loads(path.read_text())


@pytest.mark.parametrize(("name", "keys"), [("clarify", {}), ("clarify_vpc_kms", VPC)])
def test_the_request_is_valid_and_as_read(name: str, keys: dict[str, Any]) -> None:
    aws = Aws(name="account", instance_type="ml.m5.xlarge", volume_gb=20, max_hours=1, **keys)
    request = clarify_request.processing_job("sagehound-bias-1", aws, ACCOUNT, PLACE)
    check("CreateProcessingJob", request)
    held(name, request)


def test_the_image_is_that_of_the_region() -> None:
    """The addresses of "SageMaker Clarify container images" in the SageMaker Developer Guide."""
    assert clarify_request.image("us-west-2") == f"306415355426.dkr.ecr.us-west-2.amazonaws.com/{IMAGE}:1.0"
    assert clarify_request.image("cn-north-1") == f"122526803553.dkr.ecr.cn-north-1.amazonaws.com.cn/{IMAGE}:1.0"
    with pytest.raises(ConfigError, match=r"Clarify is not in mars-1: choose aws\.region from"):
        clarify_request.image("mars-1")


PHOTOS = PhotoRows.make(
    [("a.jpg", "test", "1", "1"), ("b.jpg", "test", "2", "1"), ("c.jpg", "test", "2", "2")],
    {"camera": ["old", "new", "old"], "floor": ["0", "1", "1"]},
)


@pytest.mark.parametrize(("name", "label"), [("clarify_config", None), ("clarify_config_of_a_class", "2")])
def test_the_configuration_follows_the_schema_of_the_sdk(name: str, label: str | None) -> None:
    schema = pytest.importorskip("sagemaker.core.clarify").ANALYSIS_CONFIG_SCHEMA_V1_0
    found = clarify_request.analysis_config(PHOTOS, label, "floor" if label else None)
    schema.validate(found)
    held(name, found)


def test_numbers_are_sent_as_names_because_clarify_takes_them_for_measurements() -> None:
    assert clarify_request.table(PHOTOS, "2").splitlines()[1] == "class 2,class 1,new,floor 1"
    assert clarify_request.table(PHOTOS, None).splitlines()[1] == "yes,no,class 2,new,floor 1"
    names = PHOTOS.with_facets({"camera": ["camera 5", "new", "camera 5"], "floor": ["0", "1", "1"]})
    sent = clarify_request.sent_values(names)
    assert sent["floor"] == {"floor 0": "0", "floor 1": "1"}
    assert sent["class"] == {"class 1": "1", "class 2": "2"}
    assert sent["camera"] == {"camera 5": "camera 5", "new": "new"}


def test_the_emulator_knows_the_image_by_its_name() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["sagemaker_emulator.images"]
    module, _, name = table[IMAGE].partition(":")
    assert getattr(import_module(module), name) == CLARIFY


@pytest.fixture
def commands() -> dict[str, list[str]]:
    """What the emulator runs for Clarify's image."""
    return CLARIFY


@pytest.fixture
def emulator(tmp_path: Path, commands: dict[str, list[str]]) -> Iterator[Emulator]:
    settings = Settings(variables=("SAGEHOUND_CACHE", "PYTHONPATH"), images={IMAGE: commands})
    with Emulator(tmp_path / ".emulator", settings=settings) as running:
        yield running


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run's files that the stage reads, with two cameras in facets.csv."""
    copy = tmp_path / "trained"
    copy.mkdir()
    for name in ("config.yaml", "metrics.json", "predictions.csv"):
        (copy / name).write_bytes((run / name).read_bytes())
    with (copy / "facets.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["file", "camera", "place"])
        for i, row in enumerate(read_csv(copy / "predictions.csv")):
            lines.writerow([row["file"], ("camera 5", "new")[i % 2], ("home", "park", "")[i % 3]])
    return copy


def values(folder: Path) -> dict[tuple[str, ...], str]:
    keys = ("stage", "facet", "group", "outcome", "measure")
    return {tuple(r[key] for key in keys): r["value"] for r in read_csv(folder / "bias.csv")}


@pytest.mark.slow
@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("more", [[], ["bias.label=Moss", "bias.group_by=place"]])
def test_a_job_gives_the_same_files_and_values(launch: Command, own_run: Path, more: list[str]) -> None:
    given = [f"model={own_run}", f"bias.facets={own_run / 'facets.csv'}", "aws=emulator", "hydra.run.dir=out"]
    done = launch("bias=sagemaker", *given, *more)
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("Clarify is closed to new customers") < done.stdout.index("job sagehound-bias-")
    assert "differ from bias=local" not in done.stdout
    by_clarify = values(own_run)
    content = json.loads((own_run / "bias.json").read_text())
    assert content["source"] == "SageMaker Clarify"
    assert (own_run.parent / "out/analysis.json").exists()
    local = launch("bias=local", *given[:2], *(m for m in more if "label" not in m))
    assert local.returncode == 0, local.stderr
    here = {key: value for key, value in values(own_run).items() if key[0] == "post_training" and key[1] == "camera"}
    assert {key[2] for key in by_clarify if key[1] == "camera"} == {"camera 5", "new"}
    both = here.keys() & by_clarify.keys()
    measured = {key[4] for key in both}
    expected = {"AD", "DI", "CDDPL"} if not more else {"CDDPL", *(m.name for m in ONE_VS_REST)}
    assert measured == expected
    assert {key: by_clarify[key] for key in both} == {key: here[key] for key in both}


@pytest.mark.usefixtures("emulator")
def test_dry_run_writes_the_request_and_sends_nothing(
    launch: Command, own_run: Path, emulator: Emulator, tmp_path: Path
) -> None:
    done = launch("bias=sagemaker", f"model={own_run}", "aws=emulator", "dry_run=true", "hydra.run.dir=dry")
    assert done.returncode == 0, done.stderr
    request = json.loads((tmp_path / "dry/request.json").read_text())
    check("CreateProcessingJob", request)
    assert request["AppSpecification"]["ImageUri"].endswith(f"/{IMAGE}:1.0")
    assert json.loads((tmp_path / "dry/analysis_config.json").read_text())["facet"] == [{"name_or_index": "class"}]
    assert client(emulator, "sagemaker").list_processing_jobs()["ProcessingJobSummaries"] == []
    assert not (own_run / "bias.json").exists()


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["bias.label=Poodle"], "bias.label=Poodle: no such class; choose from Amber, Moss, Slate"),
        (["bias.label=Moss"], "bias.label compares groups of photos: give bias.facets=FILE"),
        (["bias.instance_type=ml.huge"], "CreateProcessingJob, which SageMaker would refuse: ProcessingResources."),
        (["aws.region=xx-west-1"], "bias=sagemaker: Clarify is not in xx-west-1: choose aws.region from"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_sent(
    launch: Command, own_run: Path, overrides: list[str], message: str
) -> None:
    done = launch("bias=sagemaker", f"model={own_run}", "aws=emulator", *overrides)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("commands", [{"process": [sys.executable, "-c", "raise SystemExit('no rows')"]}])
def test_a_job_that_fails_is_one_line(launch: Command, own_run: Path) -> None:
    done = launch("bias=sagemaker", f"model={own_run}", "aws=emulator")
    assert done.returncode == 4, done.stderr
    assert "no rows" in done.stdout  # its log
    assert ": Failed: " in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (own_run / "bias.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": {"shap": {}}}, "methods.shap: the emulator's Clarify computes no such analysis"),
        ({"predictor": {"model_name": "m"}}, "predictor: the emulator's Clarify computes bias measures only"),
        ({"facet": [{"name_or_index": "lens"}]}, "facet: no column 'lens'; there are"),
        (
            {"methods": {"post_training_bias": {"methods": ["FT"]}}},
            "methods.post_training_bias: FT: the emulator's Clarify computes AD,",
        ),
    ],
)
def test_the_emulated_image_refuses_what_it_does_not_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], message: str
) -> None:
    from sagehound.bias import clarify_job

    monkeypatch.setenv("SAGEMAKER_EMULATOR_OPT_ML", str(tmp_path))
    inside = tmp_path / "processing/input"
    for folder in ("config", "data"):
        (inside / folder).mkdir(parents=True)
    given = clarify_request.analysis_config(PHOTOS, None, None) | change
    (inside / "config/analysis_config.json").write_text(json.dumps(given))
    (inside / "data/photos.csv").write_text(clarify_request.table(PHOTOS, None))
    with pytest.raises(SystemExit, match="Customer Error"):
        clarify_job.main()
    assert message in (tmp_path / "output/message").read_text()
