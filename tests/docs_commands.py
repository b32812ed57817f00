"""The commands that the documentation names."""

import re
from pathlib import Path

from helpers import ROOT

FILES = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/guides/*.md")]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}
ALL = "\n".join(PAGES.values())

_CALL = re.compile(r"(?:python|sagehound) (train|launch)(?:\.py)? ([^`\n|]*=[^`\n|]*)")
_UNKNOWN = (
    "resume",
    "_target_",
    "best=",
    "submitit",
    "joblib",
    "experiment=NAME",
    "...",
)  # need a run, a file, a plugin


def commands(text: str = ALL) -> list[tuple[str, str]]:
    """Train or launch, and the overrides, of each command."""
    found = {(program, given.strip()) for program, given in _CALL.findall(text)}
    return sorted(call for call in found if not any(word in call[1] for word in _UNKNOWN))


def pages(folder: Path) -> str:
    """The text of README and of all pages but those of a folder, whose commands another test runs."""
    return "\n".join(text for name, text in PAGES.items() if not (ROOT / name).is_relative_to(folder))
