"""Finds settings that `launch.py` has and `train.py` lacks, from the configs in ``conf``. Imports no torch."""

import dataclasses
from pathlib import Path

from omegaconf import OmegaConf

from sagehound.config import Train, leaves, registered

KEYS = ("endpoint", "n", "dry_run", "data.s3")  # launch.py's keys outside of its own groups


def groups(conf: Path) -> dict[str, str]:
    """The groups that train.py lacks, each with the option that its keys need; empty if the default has one."""
    if registered() is not Train or not conf.is_dir():
        return {}
    known = {f.name for f in dataclasses.fields(Train)} | {"experiment"}
    lines = [line for line in OmegaConf.load(conf / "launch.yaml").defaults if OmegaConf.is_dict(line)]
    chosen = {group for line in lines for group, option in line.items() if option is not None}
    folders = sorted(d for d in conf.iterdir() if d.is_dir() and d.name not in known)
    options = {d.name: sorted(f.stem for f in d.glob("*.yaml")) for d in folders}
    return {
        name: "" if name in chosen else "local" if "local" in known else known[0] for name, known in options.items()
    }


def is_of_larger_schema(override: str, *conf: Path) -> bool:
    """Whether an override chooses an option that only a larger schema has, such as trainer=sagemaker.

    Args:
        override: an override of this command line, or of an earlier run.
        conf: folders of config groups, which contain the options.
    """
    group, _, option = override.partition("=")
    name = f"{group}.name"
    known = [choice for key, f in leaves(Train) if key == name for choice in f.metadata["rule"].get("choices", ())]
    if not known or option in known:
        return False
    files = [file for folder in conf if (file := folder / group / f"{option}.yaml").is_file()]
    options = [OmegaConf.load(file) for file in files]
    names = [OmegaConf.select(o, "name") or OmegaConf.select(o, name) for o in options]
    return any(one and one not in known for one in names)
