"""Where the project's own files are: in a checkout, or in the installed package. Imports little."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def conf_folder() -> Path:
    """The folder of the configs: ``conf`` in the package where it is installed, else the checkout's."""
    inside = _PACKAGE / "conf"
    return inside if inside.is_dir() else _PACKAGE.parents[1] / "conf"


def checkout() -> Path | None:
    """The checkout that this package is imported from; None where it is installed from a wheel."""
    root = _PACKAGE.parents[1]
    return root if _PACKAGE.parent.name == "src" and (root / "conf/train.yaml").is_file() else None


@contextmanager
def folder() -> Iterator[Path]:
    """The project as a folder: the checkout, or a temporary one of the same layout with the installed packages."""
    if root := checkout():
        yield root
        return
    with tempfile.TemporaryDirectory(prefix="sagehound-project-") as temporary:
        _copy_installed(Path(temporary))
        yield Path(temporary)


def _copy_installed(root: Path) -> None:
    """Lay the installed packages out like a checkout, with the files that the wheel carries in its metadata."""
    from importlib.metadata import files  # which takes its time

    for file in files("sagehound") or []:
        if file.parent.name == "extra_metadata":
            shutil.copyfile(str(file.locate()), root / file.name)
    shutil.copytree(conf_folder(), root / "conf")
    made = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_PACKAGE, root / "src/sagehound", ignore=made)
    for name in ("sagehound_launchers", "hydra_plugins.sagehound"):
        package = import_module(name)
        shutil.copytree(package.__path__[0], root / "launchers" / name.replace(".", "/"), ignore=made)
    shutil.rmtree(root / "src/sagehound/conf")  # which a checkout has at its top alone
