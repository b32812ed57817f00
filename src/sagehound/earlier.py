"""What an earlier run or search was given, as overrides: ``resume=`` and ``best=``. Imports no torch."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from yaml import YAMLError

from sagehound import hints
from sagehound.config import registered
from sagehound.errors import ConfigError


def with_best(argv: list[str]) -> list[str]:
    """The command line with the overrides of ``best=FOLDER|TUNING_JOB`` before those that are given, which win.

    Raises:
        ConfigError: there is no best.yaml, or it is no mapping of overrides.
    """
    given = {hints.override_key(o): o.partition("=")[2].strip("'\"") for o in argv if "=" in o}
    if given.get("best") in (None, "", "null"):
        return argv
    found = _read_best(given["best"], given)
    return [*(f"{key!s}={value}" for key, value in found.items() if str(key) not in given), *argv]


def _read_best(wanted: str, given: Mapping[str, str]) -> Mapping[Any, Any]:
    path = Path(wanted).expanduser()
    if not path.exists() and "/" not in wanted:  # a name: whoever is installed may know it
        from importlib.metadata import entry_points  # which takes its time

        for source in entry_points(group="sagehound.best"):
            return dict(source.load()(wanted, given))
    path = path / "best.yaml" if path.is_dir() else path
    refused = ConfigError(f"best={wanted}: {path} holds no overrides; give the folder of a finished search")
    try:
        found = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError) as error:
        raise refused from error
    if not OmegaConf.is_dict(found):
        raise refused
    return dict(found)


def resumed(argv: list[str]) -> list[str]:
    """The command line with ``resume=`` worked out: the stopped run's own overrides and folder come first.

    ``last`` is the newest run under ``outputs`` that left a checkpoint, or the folder named by ``hydra.run.dir``.
    What is given beside ``resume=`` wins over what the stopped run was given.

    Raises:
        ConfigError: there is no such run, or ``resume`` stands in a sweep.
    """
    given = {hints.override_key(o): o.partition("=")[2].strip("'\"") for o in argv if "=" in o}
    wanted = given.get("resume")
    if wanted in (None, "", "null"):
        return argv
    if {"-m", "--multirun"} & set(argv):
        raise ConfigError("resume= continues one run: drop -m")
    checkpoint = _find_checkpoint(str(wanted), given.get("hydra.run.dir"))
    if checkpoint.parent.name != "checkpoints":  # a file by itself: its run is unknown
        return [*(o for o in argv if hints.override_key(o) != "resume"), f"resume={hints.as_text(str(checkpoint))}"]
    folder = checkpoint.parent.parent
    saved = folder / "overrides.yaml"
    overrides = list(OmegaConf.load(saved)) if saved.exists() else []
    dropped = {*given, "overwrite"}  # a resume removes nothing
    new = [o for o in overrides if hints.override_key(o) not in dropped and _is_of_here(o)]
    new += [o for o in argv if hints.override_key(o) != "resume"]
    run_dir = [] if "hydra.run.dir" in given else [f"hydra.run.dir={hints.as_text(str(folder))}"]
    return [*new, f"resume={hints.as_text(str(checkpoint))}", *run_dir]


def _is_of_here(override: str) -> bool:
    """Whether an override of a run means something to this program; where the run was trained does not."""
    group = re.split(r"[./@]", hints.override_key(override))[0]
    known = {f.name for f in dataclasses.fields(registered())} | {"experiment", "hydra"}
    return group in known and override != "trainer=sagemaker"


def _find_checkpoint(wanted: str, run_dir: str | None) -> Path:
    if wanted == "last":
        found = (
            [Path(run_dir) / "checkpoints/last.ckpt"]
            if run_dir
            else [*Path("outputs").glob("*/*/checkpoints/last.ckpt")]
        )
        found = sorted((p for p in found if p.exists()), key=lambda p: p.stat().st_mtime)
        if not found:
            raise ConfigError(
                f"resume=last: no run in {run_dir or 'outputs'} left checkpoints/last.ckpt; give a run's folder"
            )
        return found[-1].resolve()
    path = Path(wanted) / "checkpoints/last.ckpt" if Path(wanted).is_dir() else Path(wanted)
    if not path.is_file():
        raise ConfigError(f"resume={wanted}: {path} does not exist; give last, a run's folder, or a .ckpt file")
    return path.resolve()
