"""Reads what a run's folder holds for its report. Needs no torch and no photos."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sagehound.debugger import saved
from sagehound.debugger.observation import Missing
from sagehound.errors import ConfigError, InputError
from sagehound.report.insights import NAME as INSIGHTS
from sagehound.runs.run import Run

Row = dict[str, str]


@dataclass(frozen=True)
class Contents:
    """The files of a run.

    Attributes:
        folder: the run's.
        metrics: metrics.json.
        config: config.yaml with every key.
        overrides: those of the command, in their order.
        history: a row for each epoch.
        predictions: a row for each photo.
        by_class: a row for each class.
        audit: audit.json.
        findings: of the debugger, in the order of time.
        insights: learning curve and suspicious labels, see ``insights``.
        profile: profile/summary.json.
        losses: of saved tensors, see ``debugger.saved.losses``.
        bias: bias.json.
    """

    folder: Path
    metrics: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    predictions: list[Row] = field(default_factory=list)
    by_class: list[Row] = field(default_factory=list)
    audit: dict[str, Any] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    insights: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    bias: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last two parts of the folder's path."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def photos(self) -> Path | None:
        """The folder of the photos, if it is on this machine."""
        root = self.audit.get("root") or self.setting("data.root")
        return Path(root) if root and Path(root).is_dir() else None

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return [row["class"] for row in self.by_class]

    def setting(self, key: str) -> Any:  # noqa: ANN401 - of any type
        """A value of the config by its dotted key; None if there is none."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def of_split(self, split: str) -> list[Row]:
        """The predictions of one split."""
        return [row for row in self.predictions if row["split"] == split]

    def confusion(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Test photos by label (row) and prediction (column), c x c."""
        place = {name: i for i, name in enumerate(self.classes)}
        counts = np.zeros((len(place), len(place)), np.int64)
        for row in self.of_split("test"):
            counts[place[row["label"]], place[row["prediction"]]] += 1
        return counts


def read(folder: Path) -> Contents:
    """Read a run's folder; files that are missing are left out.

    Raises:
        InputError: the folder holds no finished run.
    """
    run = Run.open(folder)
    if not isinstance(run.metrics.get("test"), dict):
        raise InputError(f"{folder}: metrics.json has no scores of test photos; give the folder of a finished run")
    history = [{name: float(value) for name, value in row.items() if value} for row in _csv(folder / "history.csv")]
    return Contents(
        folder,
        run.metrics,
        dict(_yaml(folder / "config.yaml") or {}),
        [str(one) for one in _yaml(folder / "overrides.yaml") or []],
        history,
        _csv(folder / "predictions.csv"),
        _csv(folder / "per_class.csv"),
        _json(folder / "audit.json"),
        _json(folder / "debugger" / "findings.json").get("findings", []),
        _json(folder / INSIGHTS),
        _json(folder / "profile" / "summary.json"),
        _losses(folder),
        _json(folder / "bias.json"),
    )


def _losses(folder: Path) -> dict[str, list[tuple[int, float]]]:
    try:
        return saved.losses(folder)
    except (ConfigError, InputError, Missing):  # none were saved, only other statistics were, or smdebug is missing
        return {}


def _csv(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _yaml(path: Path) -> Any:  # noqa: ANN401 - a mapping or a list
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, OmegaConfBaseException):
        return None
