"""README and code cannot drift apart where a test can tell."""

import re
import shlex

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir

import sagehound.command  # noqa: F401 - registers the schema
from sagehound.config import check

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("group", [d.name for d in sorted((ROOT / "conf").iterdir()) if d.is_dir()])
def test_every_option_is_named(group: str) -> None:
    (row,) = re.findall(rf"^\| `{group}` \| (.*) \|$", README, flags=re.MULTILINE)
    for option in (ROOT / "conf" / group).glob("*.yaml"):
        assert option.stem in row


COMMANDS = sorted({c for c in re.findall(r"python train\.py ([^`\n|]*=[^`\n|]*)", README) if "resume" not in c})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command: str) -> None:
    overrides = [o for o in shlex.split(command) if o != "-m"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        check(compose("train", overrides=overrides))


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 5


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"`make (\w+)`", README))
    assert named
    assert named <= targets
