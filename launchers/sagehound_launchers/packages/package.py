"""A model for the registry: its file, what it was trained on, how good it is, and where it comes from."""

import csv
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from sagehound.artifact import archive
from sagehound.artifact.archive import Card
from sagehound.errors import ConfigError, InputError
from sagehound.storage.atomic import read_csv

PENDING, APPROVED = "PendingManualApproval", "Approved"  # SageMaker's names


@dataclass(frozen=True)
class Package:
    """What is registered."""

    model: Path  # model.tar.gz
    digest: str  # SHA-256 of the file
    about: dict[str, Any]  # model.json
    run: str  # the folder it was trained in; empty for an archive alone
    job: str  # ARN of the training job; empty if it was trained on this machine
    predictions: list[dict[str, str]] = field(default_factory=list)  # of the test photos; empty for an archive alone

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the splits, with intervals."""
        metrics: dict[str, Any] = self.about.get("metrics", {})
        return metrics

    def facts(self) -> dict[str, Any]:
        """What a registry shows of the model, as plain values."""
        test = self.metrics.get("test", {})
        low, high = test.get("top1_interval", (None, None))
        return {
            "sha256": self.digest,
            "backbone": self.about.get("backbone"),
            "classes": len(self.about.get("classes", [])),
            "test.top1": test.get("top1"),
            "test.top1_low": low,
            "test.top1_high": high,
            "test.macro_f1": test.get("macro_f1"),
            "test.photos": test.get("photos"),
            "data": self.about.get("data", {}).get("fingerprint"),
            "code": (self.about.get("git") or {}).get("commit"),
            "job": self.job or None,
            "run": self.run or None,
        }

    def card(self, address: str) -> dict[str, Any]:
        """The model card, with the members that SageMaker's schema has for model packages.

        Args:
            address: of model.tar.gz.
        """
        counts = self.about.get("data", {}).get("photos", {})
        classes: list[str] = self.about.get("classes", [])
        described = [
            {
                "name": f"{split} photos",
                "metric_groups": [
                    {
                        "name": "scores",
                        "metric_data": [
                            {"name": name, "type": "number", "value": value}
                            for name, value in scores.items()
                            if isinstance(value, int | float)
                        ],
                    }
                ],
            }
            for split, scores in self.metrics.items()
            if isinstance(scores, dict)
        ]
        return {
            "model_overview": {"model_artifact": [address]},
            "intended_uses": {
                "purpose_of_model": f"classifies photos as one of {len(classes)} classes: {', '.join(classes[:20])}",
                "intended_uses": "photos like those that it was trained on",
                "factors_affecting_model_efficiency": "photos of other classes get one of these labels too",
                "risk_rating": "Unknown",
            },
            "training_details": {
                "training_observations": f"backbone {self.about.get('backbone')}, photos {json.dumps(counts)}, "
                f"fingerprint of the data {self.about.get('data', {}).get('fingerprint')}",
            },
            "evaluation_details": described,
        }


@dataclass(frozen=True)
class Version:
    """A registered model."""

    name: str
    number: int
    status: str
    digest: str
    place: str = ""  # sagemaker/ for SageMaker's registry

    @property
    def address(self) -> str:
        """How ``model=`` names it."""
        return f"registry:{self.place}{self.name}@{self.number}"


class Registry(Protocol):
    """A registry of packages: a folder, SageMaker's or MLflow's."""

    def versions(self, name: str) -> list[Version]:
        """The versions of a name, newest first; none if there is no such name."""

    def add(self, name: str, package: Package, status: str) -> Version:
        """Store a package as the next version, or return the version that has the same model, approved if asked for."""

    def approve(self, version: Version) -> None:
        """Mark a version as approved."""

    def fetch(self, version: Version) -> Path:
        """The version's model.tar.gz on this machine."""

    def predictions(self, version: Version) -> list[dict[str, str]]:
        """The version's predictions of its test photos; empty if they are not known."""


def with_status(registry: Registry, version: Version, status: str) -> Version:
    """Approve a version that waits, if ``status`` asks for it. One that was rejected stays so."""
    if (version.status, status) != (PENDING, APPROVED):
        return version
    registry.approve(version)
    return replace(version, status=APPROVED)


def read(model: str) -> Package:
    """Read a run's or an archive's package.

    Raises:
        InputError: there is no such model, or a file of its run cannot be read.
        ConfigError: the model is unpacked.
    """
    path = archive.find(model)
    if path.is_dir():
        raise ConfigError(f"model={model} is unpacked: give the run's folder or its {archive.NAME}")
    with archive.opened(path) as folder:
        about = Card.read(folder).about
    run = path.parent if (path.parent / "metrics.json").exists() else None
    job, tested = (_job(run / "job.json"), _tested(run / "predictions.csv")) if run else ("", [])
    return Package(path, archive.digest(path), about, str(run.resolve()) if run else "", job, tested)


def _job(path: Path) -> str:
    """The ARN of the training job; empty without the file."""
    if not path.exists():
        return ""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["TrainingJobArn"] or ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _tested(path: Path) -> list[dict[str, str]]:
    """The predictions of the test photos; empty without the file."""
    if not path.exists():
        return []
    try:
        return [row for row in read_csv(path) if row["split"] == "test"]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    reason = f"it has no {error}" if isinstance(error, KeyError) else error
    return InputError(f"{path} cannot be read: {reason}: run the training's command again, or remove the file")
