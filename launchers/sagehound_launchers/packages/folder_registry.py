"""`registry=local`: a folder with NAME/VERSION/model.tar.gz and package.json beside it."""

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from sagehound.artifact import archive
from sagehound.errors import InputError
from sagehound.storage.atomic import locked, read_csv, write_csv, write_json, writing_failed
from sagehound_launchers.packages.package import APPROVED, Package, Version, with_status

_PREDICTIONS = "predictions.csv"


class FolderRegistry:
    """Packages in a folder. Several commands may use it at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser()

    def versions(self, name: str) -> list[Version]:
        """The versions of a name, newest first; none if there is no such name."""
        folder = self.folder / name
        numbers = sorted((int(f.name) for f in folder.iterdir() if f.name.isdecimal()) if folder.is_dir() else [])
        return [self._version(name, number) for number in reversed(numbers)]

    def add(self, name: str, package: Package, status: str) -> Version:
        """Store a package as the next version, or return the version that has the same model, approved if asked for.

        Raises:
            SagehoundError: the disk is full.
        """
        folder = self.folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / ".lock"):
                versions = self.versions(name)
                if same := next((v for v in versions if v.digest == package.digest), None):
                    return with_status(self, same, status)
                number = versions[0].number + 1 if versions else 1
                about = package.facts() | {"name": name, "version": number, "status": status, "created": _now()}
                with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as temporary:
                    new = Path(temporary, str(number))
                    new.mkdir()
                    shutil.copyfile(package.model, new / archive.NAME)
                    write_json(new / "model_card.json", package.card(str(folder / str(number) / archive.NAME)))
                    if package.predictions:
                        columns = list(package.predictions[0])
                        write_csv(new / _PREDICTIONS, columns, [list(row.values()) for row in package.predictions])
                    write_json(new / "package.json", about)
                    new.rename(folder / str(number))
        except OSError as error:
            raise writing_failed(folder, error) from error
        return Version(name, number, status, package.digest)

    def approve(self, version: Version) -> None:
        """Mark a version as approved."""
        path = self.folder / version.name / str(version.number) / "package.json"
        write_json(path, self._about(path) | {"status": APPROVED, "approved": _now()})

    def fetch(self, version: Version) -> Path:
        """The version's model.tar.gz.

        Raises:
            InputError: the file is gone, or was changed.
        """
        path = self.folder / version.name / str(version.number) / archive.NAME
        if not path.is_file() or archive.digest(path) != version.digest:
            raise InputError(f"{path}: the registered model is gone or was changed: register it again")
        return path

    def predictions(self, version: Version) -> list[dict[str, str]]:
        """The version's predictions of its test photos; empty if they are not known."""
        path = self.folder / version.name / str(version.number) / _PREDICTIONS
        return read_csv(path) if path.exists() else []

    def _version(self, name: str, number: int) -> Version:
        about = self._about(self.folder / name / str(number) / "package.json")
        return Version(name, number, about["status"], about["sha256"])

    def _about(self, path: Path) -> dict[str, Any]:
        try:
            about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(about["status"], str) and isinstance(about["sha256"], str):
                return about
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read: {error}; remove its folder") from error
        raise InputError(f"{path} has no status and sha256; remove its folder")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
