"""A finished run: its folder and its metrics. Imports no torch."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagehound.errors import InputError

if TYPE_CHECKING:
    from sagehound.runs.trained_model import Model


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    metrics: dict[str, Any]  # metrics.json

    def __fspath__(self) -> str:
        """The run's folder, so that a run can be used as a path."""
        return os.fspath(self.folder)

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Open the run in a folder.

        Raises:
            InputError: the folder contains no finished run.
        """
        path = Path(folder).expanduser()
        try:
            return cls(path, json.loads((path / "metrics.json").read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: no finished run ({error}); give the folder of one") from error

    def model(self) -> "Model":
        """Load the trained model.

        Raises:
            InputError: the run has no model.
        """
        from sagehound.runs.trained_model import load

        return load(self.folder)
