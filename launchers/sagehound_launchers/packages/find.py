"""`model=registry:NAME[@VERSION]`: finds a registered model, in the folder or on SageMaker."""

import re
from pathlib import Path

from sagehound.errors import ConfigError
from sagehound.system import console
from sagehound_launchers.config import Aws
from sagehound_launchers.packages.folder_registry import FolderRegistry
from sagehound_launchers.packages.package import APPROVED, Registry, Version

PREFIX = "registry:"
FOLDER = "outputs/registry"
NAME = re.compile(r"(?P<name>[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62})(@(?P<version>\d+))?")


def model(given: str, aws: Aws, folder: str = FOLDER) -> str:
    """A registered model's file; any other ``model`` is returned as it is.

    Args:
        given: a run, an archive, or registry:NAME[@VERSION]. Without a version, the newest approved one.
        aws: the account, in which a name is searched that the folder does not have.
        folder: of the local registry.

    Raises:
        ConfigError: there is no such name or version, or none is approved.
    """
    if not given.startswith(PREFIX):
        return given
    registry, version = find(given.removeprefix(PREFIX), aws, folder)
    console.info(f"model: {version.address} ({version.status})")
    return str(registry.fetch(version))


def find(text: str, aws: Aws, folder: str = FOLDER) -> tuple[Registry, Version]:
    """The registry and the version that NAME[@VERSION] names.

    Raises:
        ConfigError: there is no such name or version, or none is approved.
    """
    match = NAME.fullmatch(text)
    if match is None:
        raise ConfigError(f"{PREFIX}{text}: write {PREFIX}NAME or {PREFIX}NAME@3")
    name = match["name"]
    registry = _registry(name, aws, folder)
    versions = registry.versions(name)
    known = ", ".join(f"{v.number} ({v.status})" for v in versions)
    if not versions:
        raise ConfigError(f"{PREFIX}{name}: no model of this name, neither in {folder} nor in the account's registry")
    if match["version"]:
        wanted = next((v for v in versions if v.number == int(match["version"])), None)
        if wanted is None:
            raise ConfigError(f"{PREFIX}{text}: {name} has no such version; it has {known}")
        return registry, wanted
    approved = next((v for v in versions if v.status == APPROVED), None)
    if approved is None:
        raise ConfigError(
            f"{PREFIX}{name}: no version is approved; it has {known}: sagehound launch approve={name}@"
            f"{versions[0].number}, or give {PREFIX}{name}@{versions[0].number}"
        )
    return registry, approved


def _registry(name: str, aws: Aws, folder: str) -> Registry:
    here = FolderRegistry(Path(folder))
    if here.versions(name):
        return here
    from sagehound_launchers.packages.sagemaker_registry import SageMakerRegistry
    from sagehound_launchers.sagemaker import account

    try:
        return SageMakerRegistry(account.connect(aws), aws)
    except ConfigError as error:
        raise ConfigError(f"{PREFIX}{name}: {folder} has no such model; the account's registry: {error}") from error


def approve(text: str, aws: Aws, folder: str = FOLDER) -> None:
    """Approve NAME@VERSION.

    Raises:
        ConfigError: there is no such version, or none was given.
    """
    if "@" not in text:
        raise ConfigError(f"approve={text}: which version? Write approve={text}@1")
    registry, version = find(text, aws, folder)
    registry.approve(version)
    console.info(f"{version.address} is approved")
