"""README and code cannot drift apart where a test can tell."""

import re
import shlex

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir

from sagehound.config import Train, register, typed
from sagehound_launchers.schema import register as register_launch
from sagehound_launchers.search_space import parse

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("group", [d.name for d in sorted((ROOT / "conf").iterdir()) if d.is_dir()])
def test_every_option_is_named(group: str) -> None:
    (row,) = re.findall(rf"^\| `{group}` \| (.*) \|$", README, flags=re.MULTILINE)
    for option in (ROOT / "conf" / group).glob("*.yaml"):
        assert option.stem in row


FOUND = re.findall(r"(?:python|sagehound) (train|launch)(?:\.py)? ([^`\n|]*=[^`\n|]*)", README)
COMMANDS = sorted({(program, given) for program, given in FOUND if "resume" not in given})


@pytest.mark.parametrize(("program", "given"), COMMANDS)
def test_every_command_composes(program: str, given: str) -> None:
    overrides = [o for o in shlex.split(given) if o != "-m"]
    try:
        (register_launch if program == "launch" else register)()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            typed(compose(program, overrides=parse(overrides).middle()))
    finally:
        register(Train)


def test_the_readme_has_commands() -> None:
    assert len([program for program, _ in COMMANDS if program == "train"]) >= 5
    assert len([program for program, _ in COMMANDS if program == "launch"]) >= 4


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"`make (\w+)`", README))
    assert named
    assert named <= targets
