"""A model for the registry: its file, what it was trained on, how good it is, and where it comes from."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sagehound.artifact import archive
from sagehound.artifact.archive import Card
from sagehound.errors import ConfigError
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
    """Where packages are kept."""

    def versions(self, name: str) -> list[Version]:
        """The versions of a name, newest first; none if there is no such name."""

    def add(self, name: str, package: Package, status: str) -> Version:
        """Store a package as the next version, or return the version that has the same model."""

    def approve(self, version: Version) -> None:
        """Mark a version as approved."""

    def fetch(self, version: Version) -> Path:
        """The version's model.tar.gz on this machine."""

    def predictions(self, version: Version) -> list[dict[str, str]]:
        """The version's predictions of its test photos; empty if they are not known."""


def read(model: str) -> Package:
    """Read a run's or an archive's package.

    Raises:
        InputError: there is no such model.
        ConfigError: the model is unpacked.
    """
    path = archive.find(model)
    if path.is_dir():
        raise ConfigError(f"model={model} is unpacked: give the run's folder or its {archive.NAME}")
    with archive.opened(path) as folder:
        about = Card.read(folder).about
    run = path.parent if (path.parent / "metrics.json").exists() else None
    rows = read_csv(run / "predictions.csv") if run and (run / "predictions.csv").exists() else []
    job = json.loads((run / "job.json").read_text()) if run and (run / "job.json").exists() else {}
    tested = [row for row in rows if row["split"] == "test"]
    return Package(
        path, archive.digest(path), about, str(run.resolve()) if run else "", job.get("TrainingJobArn", ""), tested
    )
