"""What leads clients to an emulator: variables for other processes, and a context manager for this one."""

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sagemaker_emulator.errors import EmulatorError
from sagemaker_emulator.identity import Identity
from sagemaker_emulator.sdk_setup import amazon_addresses
from sagemaker_emulator.storage.atomic_files import write_text

if TYPE_CHECKING:
    from sagemaker_emulator.server import Emulator
    from sagemaker_emulator.settings import Settings

_SDK_CONFIG = """\
# SageMaker's SDKs send no usage data while they work with the emulator
SchemaVersion: "1.0"
SageMaker:
  PythonSDK:
    Modules:
      TelemetryOptOut: true
"""


def variables(folder: Path, url: str, region: str) -> dict[str, str]:
    """Environment variables by which boto3, SageMaker's SDKs and the ``aws`` command use an emulator.

    Args:
        folder: the emulator's; the SDKs' configuration file is written into it.
        url: of the emulator.
        region: AWS's name of it.
    """
    identity = Identity(region)
    identity.url = url
    config = folder.absolute() / "sdk.yaml"
    write_text(config, _SDK_CONFIG)
    return identity.environment() | {"SAGEMAKER_USER_CONFIG_OVERRIDE": str(config)}


def running(folder: Path) -> tuple[str, str]:
    """The address and the region of the emulator that uses a folder.

    Raises:
        EmulatorError: none does.
    """
    try:
        content = json.loads((folder / "address.json").read_text(encoding="utf-8"))
        os.kill(content["pid"], 0)
        return str(content["url"]), str(content["region"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EmulatorError(f"no emulator uses {folder}: start `sagemaker-emulator --folder {folder}`") from error


def exports(folder: Path) -> str:
    """Lines of shell that set the variables for the emulator that uses a folder.

    The last one leads SDKs to it that name the address of STS themselves.

    Raises:
        EmulatorError: no emulator uses the folder.
    """
    url, region = running(folder)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables(folder, url, region).items()]
    setup = shlex.quote(str(Path(amazon_addresses.__file__).parent))
    return "\n".join([*lines, f"export PYTHONPATH={setup}${{PYTHONPATH:+:$PYTHONPATH}}"])


@contextmanager
def emulated(folder: Path, settings: "Settings | None" = None) -> Iterator["Emulator"]:
    """Run an emulator, and lead all clients that this process makes meanwhile to it.

    Args:
        folder: its state.
        settings: what else may be chosen.

    Raises:
        EmulatorError: another emulator uses the folder, or one runs in this process.
    """
    from sagemaker_emulator.server import Emulator  # importing moto takes seconds

    amazon_addresses.redirect()
    with Emulator(Path(folder), settings=settings) as emulator:
        given = variables(emulator.folder, emulator.url, emulator.settings.region)
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        try:
            yield emulator
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
