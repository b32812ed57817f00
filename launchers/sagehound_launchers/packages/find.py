"""`model=registry:NAME[@VERSION]` and `registry:sagemaker/NAME[@VERSION]`: finds a registered model."""

import re
from pathlib import Path
from typing import Protocol

from sagehound.errors import ConfigError
from sagehound.system import console
from sagehound_launchers.config import Aws
from sagehound_launchers.config.extras import needs
from sagehound_launchers.packages.folder_registry import FolderRegistry
from sagehound_launchers.packages.package import APPROVED, Registry, Version

PREFIX = "registry:"
NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")  # AWS's API reference, ModelPackageGroupName
_TEXT = re.compile(rf"(?P<there>sagemaker/|mlflow/)?(?P<name>{NAME.pattern})(@(?P<version>\d+))?")


class Places(Protocol):
    """Where models are registered."""

    @property
    def aws(self) -> Aws:
        """The account."""

    @property
    def registry_dir(self) -> str:
        """The folder of the local registry."""


def model(given: str, cfg: Places) -> str:
    """A registered model's file; any other ``model`` is returned as it is.

    Args:
        given: a run, an archive, or registry:NAME[@VERSION]. Without a version, the newest approved one.
        cfg: the account, and the folder of the local registry.

    Raises:
        ConfigError: there is no such name or version, or none is approved.
    """
    if not given.startswith(PREFIX):
        return given
    registry, version = find(given.removeprefix(PREFIX), cfg)
    console.info(f"model: {version.address} ({version.status})")
    return str(registry.fetch(version))


def find(text: str, cfg: Places) -> tuple[Registry, Version]:
    """The registry and the version that [sagemaker/]NAME[@VERSION] names.

    Raises:
        ConfigError: there is no such name or version, or none is approved.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{PREFIX}{text}: write {PREFIX}NAME, {PREFIX}NAME@3 or {PREFIX}sagemaker/NAME@3")
    name, there = match["name"], match["there"] or ""
    registry = _registry(cfg, there)
    versions = registry.versions(name)
    known = ", ".join(f"{v.number} ({v.status})" for v in versions)
    if not versions:
        place = {"sagemaker/": "SageMaker's registry", "mlflow/": "MLflow's registry"}.get(there, cfg.registry_dir)
        other = "" if there else f"; the others are {PREFIX}sagemaker/{name} and {PREFIX}mlflow/{name}"
        raise ConfigError(f"{PREFIX}{text}: {place} has no model of this name{other}")
    if match["version"]:
        wanted = next((v for v in versions if v.number == int(match["version"])), None)
        if wanted is None:
            raise ConfigError(f"{PREFIX}{text}: {name} has no such version; it has {known}")
        return registry, wanted
    approved = next((v for v in versions if v.status == APPROVED), None)
    if approved is None:
        newest = f"{there}{name}@{versions[0].number}"
        raise ConfigError(
            f"{PREFIX}{text}: no version is approved; it has {known}: sagehound launch approve={newest}, or give "
            f"{PREFIX}{newest}"
        )
    return registry, approved


def _registry(cfg: Places, there: str) -> Registry:
    if not there:
        return FolderRegistry(Path(cfg.registry_dir))
    if there == "mlflow/":
        from sagehound_launchers.packages.mlflow_registry import MlflowRegistry

        needs("registry:mlflow", "mlflow", "mlflow")
        return MlflowRegistry()
    from sagehound_launchers.packages.sagemaker_registry import SageMakerRegistry
    from sagehound_launchers.sagemaker import account

    return SageMakerRegistry(account.connect(cfg.aws), cfg.aws)


def approve(text: str, cfg: Places) -> None:
    """Approve NAME@VERSION.

    Raises:
        ConfigError: there is no such version, or none was given.
    """
    if "@" not in text:
        raise ConfigError(f"approve={text}: which version? Write approve={text}@1")
    registry, version = find(text.removeprefix(PREFIX), cfg)
    registry.approve(version)
    console.info(f"{version.address} is approved")
