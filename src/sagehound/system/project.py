"""Finds the project's files in a checkout or in the installed package. Imports little."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def conf_folder() -> Path:
    """The folder of the configs: ``conf`` of the installed package, or of the checkout."""
    inside = _PACKAGE / "conf"
    return inside if inside.is_dir() else _PACKAGE.parents[1] / "conf"


def checkout() -> Path | None:
    """The checkout that this package is imported from; None if it is installed from a wheel."""
    root = _PACKAGE.parents[1]
    return root if _PACKAGE.parent.name == "src" and (root / "conf/train.yaml").is_file() else None


@contextmanager
def folder() -> Iterator[Path]:
    """The project as a folder: the checkout, or a temporary copy of the installed packages in the same layout."""
    if root := checkout():
        yield root
        return
    with tempfile.TemporaryDirectory(prefix="sagehound-project-") as temporary:
        _copy_installed(Path(temporary))
        yield Path(temporary)


def _copy_installed(root: Path) -> None:
    """Copy the installed packages, and the files in the wheel's metadata, to the layout of a checkout."""
    from importlib.metadata import files  # slow to import

    for file in files("sagehound") or []:
        if file.parent.name == "extra_metadata":
            shutil.copyfile(str(file.locate()), root / file.name)
    shutil.copytree(conf_folder(), root / "conf")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_PACKAGE, root / "src/sagehound", ignore=ignored)
    for name in ("sagehound_launchers", "sagemaker_emulator", "hydra_plugins.sagehound"):
        package = import_module(name)
        shutil.copytree(package.__path__[0], root / "launchers" / name.replace(".", "/"), ignore=ignored)
    shutil.rmtree(root / "src/sagehound/conf")  # a checkout has it only at its top
