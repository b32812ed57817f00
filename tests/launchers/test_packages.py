"""`registry=local|sagemaker`: versions, the gate, approval, and `model=registry:NAME`."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from emulator_helpers import client
from helpers import Command

from sagehound.errors import ConfigError
from sagehound_launchers.packages import gate, package
from sagehound_launchers.packages.folder_registry import FolderRegistry
from sagehound_launchers.packages.gate import NotGoodEnough
from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings

DATA = "data=demo"


def changed(run: Path, folder: Path, wrong: int) -> Path:
    """A copy of a run with another model file, which predicts ``wrong`` test photos wrongly."""
    folder.mkdir()
    shutil.copyfile(run / "model.tar.gz", folder / "model.tar.gz")
    with (folder / "model.tar.gz").open("ab") as file:
        file.write(bytes(100 + wrong))  # another digest
    shutil.copyfile(run / "metrics.json", folder / "metrics.json")
    with (run / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    many = [{**row, "file": f"{copy}-{row['file']}", "prediction": row["label"]} for copy in range(3) for row in rows]
    for row in many[:wrong]:
        row["prediction"] = "another"
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(many[0]))
        writer.writeheader()
        writer.writerows(many)
    return folder


def test_scores_below_a_rule_are_refused(run: Path) -> None:
    read = package.read(str(run))
    top1 = read.metrics["test"]["top1"]
    gate.check(read, ["test.top1>=0", f"test.top1 <= {top1}", "valid.loss < 1e3"])
    with pytest.raises(NotGoodEnough, match=rf"registry.require=test.top1>1: test.top1 is {top1:g}; nothing"):
        gate.check(read, ["test.top1>1"])
    with pytest.raises(ConfigError, match=r"no such score; choose from top1, top5"):
        gate.check(read, ["test.top9>1"])
    for wrong in ("top1>=1", "test.top1", "test.top1>=e", "test.top1==1"):
        with pytest.raises(ConfigError, match=r"write a rule as test.top1>=0.85"):
            gate.parse(wrong)


def test_only_a_better_model_replaces_the_approved_one(run: Path, tmp_path: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    good, bad = (package.read(str(changed(run, tmp_path / name, n))) for name, n in (("good", 0), ("bad", 8)))
    gate.check_better(bad, registry, "dogs")  # nothing is approved yet
    registry.add("dogs", bad, package.APPROVED)
    with pytest.raises(NotGoodEnough, match=r"the new model alone is right on 0, registry:dogs@1 alone on 0, p=1.000"):
        gate.check_better(package.Package(bad.model, "other", {}, "", "", bad.predictions), registry, "dogs")
    gate.check_better(good, registry, "dogs")  # 8 of 8 differences: p = 1/256
    added = registry.add("dogs", good, package.APPROVED)
    assert added.number == 2
    with pytest.raises(NotGoodEnough, match=r"the new model alone is right on 0, registry:dogs@2 alone on 8, p=1.000"):
        gate.check_better(bad, registry, "dogs")
    with pytest.raises(NotGoodEnough, match="no test photo is common with registry:dogs@2"):
        gate.check_better(package.Package(bad.model, "other", {}, "", ""), registry, "dogs")


@pytest.mark.slow
def test_versions_in_a_folder(launch: Command, run: Path, tmp_path: Path) -> None:
    given = ["registry=local", DATA, "registry.group=dogs"]
    first = launch(*given, f"model={run}", "registry.require=test.top1>=0.1,valid.loss<99")
    assert first.returncode == 0, first.stderr
    assert "registered: registry:dogs@1 (PendingManualApproval)" in first.stdout
    again = launch(*given, f"model={run}")
    assert "registered: registry:dogs@1 " in again.stdout, "the same model is no new version"
    about = json.loads((tmp_path / "outputs/registry/dogs/1/package.json").read_text())
    assert len(about["data"]) == 64, "the fingerprint of the photos"
    card = json.loads((tmp_path / "outputs/registry/dogs/1/model_card.json").read_text())
    assert "one of 3 classes: Amber" in card["intended_uses"]["purpose_of_model"]
    waiting = launch(
        "transform=local", "model=registry:dogs", "data=folder", f"data.root={run.with_name('run-photos')}"
    )
    assert (waiting.returncode, "no version is approved; it has 1 (Pending" in waiting.stderr) == (2, True)
    assert launch("approve=dogs@1", DATA).returncode == 0
    used = launch("transform=local", "model=registry:dogs", "data=folder", f"data.root={run.with_name('run-photos')}")
    assert used.returncode == 0, used.stderr
    assert "model: registry:dogs@1 (Approved)" in used.stdout
    refused = launch(*given, f"model={run}", "registry.require=test.top1>1")
    assert (refused.returncode, "nothing was registered" in refused.stderr) == (1, True)
    missing = launch("transform=local", "model=registry:dogs@7", DATA)
    assert (missing.returncode, "dogs has no such version; it has 1 (Approved)" in missing.stderr) == (2, True)


@pytest.mark.slow
def test_a_version_that_waits_is_approved_if_asked_for(launch: Command, run: Path) -> None:
    given = ["registry=local", DATA, "registry.group=fish", f"model={run}"]
    assert "registered: registry:fish@1 (PendingManualApproval)" in launch(*given).stdout
    assert "registered: registry:fish@1 (Approved)" in launch(*given, "registry.approved=true").stdout
    assert "registered: registry:fish@1 (Approved)" in launch(*given).stdout


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("job.json", '{"TrainingJobArn": "arn', "job.json cannot be read: Unterminated string"),
        ("job.json", "[]", "job.json cannot be read: list indices"),
        ("predictions.csv", "file,label\na.jpg,Moss\n", "predictions.csv cannot be read: it has no 'split'"),
    ],
)
def test_a_damaged_run_is_one_line(
    launch: Command, run: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    copy = changed(run, tmp_path / "killed", 0)
    (copy / name).write_text(content)
    done = launch("registry=local", DATA, f"model={copy}")
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1), done.stderr
    assert message in done.stderr


@pytest.mark.slow
def test_versions_on_sagemaker(launch: Command, run: Path, tmp_path: Path) -> None:
    with Emulator(tmp_path / ".emulator", settings=Settings(variables=("SAGEHOUND_CACHE",))) as emulator:
        given = ["registry=sagemaker", DATA, "registry.group=dogs", "aws=emulator"]
        first = launch(*given, f"model={run}", "registry.approved=true")
        assert first.returncode == 0, first.stderr
        assert "registered: registry:sagemaker/dogs@1 (Approved)" in first.stdout
        assert "registry:sagemaker/dogs@1 " in launch(*given, f"model={run}").stdout, "the same model is no new version"
        second = launch(*given, f"model={changed(run, tmp_path / 'other', 1)}")
        assert "registered: registry:sagemaker/dogs@2 (PendingManualApproval)" in second.stdout, second.stderr
        sm = client(emulator, "sagemaker")
        versions = sm.list_model_packages(ModelPackageGroupName="dogs")["ModelPackageSummaryList"]
        assert len(versions) == 2
        described = sm.describe_model_package(ModelPackageName=versions[-1]["ModelPackageArn"])
        top1 = json.loads((run / "metrics.json").read_text())["test"]["top1"]
        assert float(described["CustomerMetadataProperties"]["test.top1"]) == pytest.approx(top1)
        assert json.loads(described["ModelCard"]["ModelCardContent"])["evaluation_details"]
        newest = launch(
            "transform=local",
            "model=registry:sagemaker/dogs",
            "data=folder",
            f"data.root={run.with_name('run-photos')}",
            "aws=emulator",
        )
        assert newest.returncode == 0, newest.stderr
        assert "model: registry:sagemaker/dogs@1 (Approved)" in newest.stdout
        assert launch("approve=sagemaker/dogs@2", DATA, "aws=emulator").returncode == 0
        newest = launch("registry=local", "model=registry:sagemaker/dogs", DATA, "aws=emulator")
        assert "model: registry:sagemaker/dogs@2 (Approved)" in newest.stdout
        dry = launch(*given, f"model={run}", "dry_run=true", "hydra.run.dir=dry")
        assert dry.returncode == 0, dry.stderr
        assert json.loads((tmp_path / "dry/registry_request.json").read_text())["ModelPackageGroupName"] == "dogs"


@pytest.mark.slow
def test_versions_in_mlflow(launch: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    given = ["registry=mlflow", DATA, "registry.group=dogs"]
    first = launch(*given, f"model={changed(run, tmp_path / 'one', 8)}", "registry.require=test.top1>=0.1")
    assert first.returncode == 0, first.stderr
    assert "registered: registry:mlflow/dogs@1 (PendingManualApproval)" in first.stdout
    assert "registry:mlflow/dogs@1 " in launch(*given, "model=one").stdout, "the same model is no new version"
    assert launch("approve=mlflow/dogs@1", DATA).returncode == 0
    better = launch(*given, f"model={changed(run, tmp_path / 'two', 0)}", "registry.better_than_approved=true")
    assert better.returncode == 0, better.stderr
    assert "better than registry:mlflow/dogs@1" in better.stdout
    photos = ["data=folder", f"data.root={run.with_name('run-photos')}"]
    used = launch("transform=local", "model=registry:mlflow/dogs", *photos)
    assert used.returncode == 0, used.stderr
    assert "model: registry:mlflow/dogs@1 (Approved)" in used.stdout
    from mlflow import MlflowClient

    version = MlflowClient().get_model_version_by_alias("dogs", "approved")
    assert int(version.version) == 1
    assert float(version.tags["test.top1"]) == json.loads((run / "metrics.json").read_text())["test"]["top1"]
