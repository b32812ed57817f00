"""`registry=mlflow`: versions in MLflow's Model Registry, in its database or on the server of MLFLOW_TRACKING_URI.

A version is the artifacts of a run of its own. An approved one has the alias `approved` and the tag `status`.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sagehound.artifact import archive
from sagehound.errors import InputError, SagehoundError
from sagehound.storage.atomic import read_csv, write_csv
from sagehound_launchers.packages.package import APPROVED, Package, Version

PLACE = "mlflow/"  # in front of a name, in registry:mlflow/NAME
_URI, _EXPERIMENT = "sqlite:///mlflow.db", "sagehound"  # those of logger=mlflow
_FOLDER = "package"  # of the run's artifacts
_PREDICTIONS = "predictions.csv"


class MlflowRegistry:
    """Packages as versions of MLflow's registered models."""

    def __init__(self) -> None:
        from mlflow import MlflowClient

        self._client: Any = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", _URI))

    def versions(self, name: str) -> list[Version]:
        """The versions of a name, newest first; none if there is no such name."""
        found = self._client.search_model_versions(f"name = '{name}'")
        versions = [
            Version(name, int(v.version), v.tags.get("status", ""), v.tags.get("sha256", ""), PLACE) for v in found
        ]
        return sorted(versions, key=lambda version: -version.number)

    def add(self, name: str, package: Package, status: str) -> Version:
        """Store a package as the next version, or return the version that has the same model."""
        from mlflow.exceptions import MlflowException

        if same := next((v for v in self.versions(name) if v.digest == package.digest), None):
            if status == APPROVED and same.status != APPROVED:
                self.approve(same)
                return Version(name, same.number, APPROVED, same.digest, PLACE)
            return same
        try:
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._client.create_registered_model(name)
            run = self._client.create_run(self._experiment(), run_name=f"{name} {package.digest[:8]}")
            with tempfile.TemporaryDirectory(prefix="sagehound-") as folder:
                _write(Path(folder), package)
                self._client.log_artifacts(run.info.run_id, folder, _FOLDER)
            facts = {key: str(value) for key, value in package.facts().items() if value is not None}
            for key, value in facts.items():
                if key.startswith("test.") and key != "test.photos":
                    self._client.log_metric(run.info.run_id, key, float(value))
            self._client.set_terminated(run.info.run_id)
            source = f"{run.info.artifact_uri}/{_FOLDER}"
            tags = facts | {"status": status}
            made = self._client.create_model_version(name, source, run.info.run_id, tags=tags)
        except MlflowException as error:
            raise SagehoundError(f"registering {name}: MLflow refused: {error}") from error
        version = Version(name, int(made.version), status, package.digest, PLACE)
        if status == APPROVED:
            self.approve(version)
        return version

    def approve(self, version: Version) -> None:
        """Mark a version as approved."""
        self._client.set_model_version_tag(version.name, str(version.number), "status", APPROVED)
        self._client.set_registered_model_alias(version.name, "approved", str(version.number))

    def fetch(self, version: Version) -> Path:
        """The version's model.tar.gz, downloaded once into the cache.

        Raises:
            InputError: the file was changed.
        """
        from sagehound.config.machine_keys import default_cache

        path = Path(default_cache(), "registry", f"mlflow-{version.name}-{version.number}", archive.NAME)
        if not path.exists() or archive.digest(path) != version.digest:
            with tempfile.TemporaryDirectory(prefix="sagehound-") as folder:
                self._download(version, archive.NAME, path, Path(folder))
        if archive.digest(path) != version.digest:
            raise InputError(f"{version.address}: the registered file was changed: register the model again")
        return path

    def predictions(self, version: Version) -> list[dict[str, str]]:
        """The version's predictions of its test photos; empty if they are not known."""
        run = self._run(version)
        if not any(one.path == f"{_FOLDER}/{_PREDICTIONS}" for one in self._client.list_artifacts(run, _FOLDER)):
            return []
        with tempfile.TemporaryDirectory(prefix="sagehound-") as folder:
            path = Path(folder, "one", _PREDICTIONS)
            self._download(version, _PREDICTIONS, path, Path(folder))
            return read_csv(path)

    def _download(self, version: Version, name: str, path: Path, folder: Path) -> None:
        from mlflow.exceptions import MlflowException

        try:
            got = self._client.download_artifacts(self._run(version), f"{_FOLDER}/{name}", str(folder))
        except (MlflowException, OSError) as error:
            raise InputError(f"{version.address}: its {name} cannot be read: {error}") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        shutil.copyfile(got, part)
        part.replace(path)

    def _run(self, version: Version) -> str:
        return str(self._client.get_model_version(version.name, str(version.number)).run_id)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        known = self._client.get_experiment_by_name(name)
        return str(known.experiment_id if known else self._client.create_experiment(name))


def _write(folder: Path, package: Package) -> None:
    """The files of a version."""
    shutil.copyfile(package.model, folder / archive.NAME)
    folder.joinpath("model_card.json").write_text(json.dumps(package.card(archive.NAME), indent=2))
    if package.predictions:
        columns = list(package.predictions[0])
        write_csv(folder / _PREDICTIONS, columns, [list(row.values()) for row in package.predictions])
