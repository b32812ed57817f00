"""Finds words in sources, configs and docs that readers do not understand at first reading; part of `make check`.

Usage: python .ci/english.py [FILE...], or without files, on all that git tracks.
"""

import re
import subprocess
import sys
from pathlib import Path

# what is never right, each with what to write instead; words that have a plain use too are not here
PATTERNS = {
    r"\bhangs? on\b": "depends on",
    r"\b(is|are|was|were|be) held (against|to)\b|\bholds? (it |them )?against\b": "is validated against",
    r"\b(at rest|rests) (while|until|under|and)\b|\bbackbone (rests|is at rest|learns)\b": "is frozen, is fine-tuned",
    r"\bwhat is kept\b|\bkept (features|photos)\b|\bKept[A-Z]\w*": "cached features, cached photos",
    r"\bgo(es)? on (where|from|with)\b|\bgoing on where\b|\bgoes_on\b": "resumes, continues",
    r"\bmakes? of (it|them|a photo|each photo|the photos?)\b": "the photo's features",
    r"\bpass(es|ed)? through the backbone\b": "the backbone runs on the photos",
    r"\bset aside\b": "evicted, left out",
    r"\btaken away\b": "interrupted, removed",
    r"\bof which (one|the)\b|\bis the better\b": "better",
    r"\bmends?\b|\bmended\b|\bmending\b": "fix",
    r"\bletters\b": "characters",
    r"\blistened before\b|\bnext head begins\b": "restore the previous handlers, start the next response",
    r"\b(is|are|was|were|be|been) (asked|told) of\b|\bnobody hears?\b|\bwhoever listens\b": "requested, notified",
    r"\bas (a|the) stranger (had|would have) (sent|written)\b": "as untrusted input",
    r"\bpatiently\b|\b_hopeless\b": "poll_until, unusable",
    r"\bmade of it\b|\bwhat it made\b|\bwhat came of\b": "the result",
    r"\bstands? for good\b|\bfor good\b": "permanently",
    r"\bcannot be had\b|\bcan be had\b": "is not available",
    r"\bis (no|nothing) [a-z]+ but\b": "is only",
    r"\bby heart\b": "memorizes",
    r"\bspeaks? for (a|its|the) (class|prediction)\b": "supports the class",
    r"\b(three )?ways on:": "solutions:",
    r"\bgoing on (at|after)\b|\btrying on for\b": "resuming, retrying",
    r"\bits own words\b": "its output",
    r"\bfor nothing\b": "free of charge",
}
FILES = (".py", ".md", ".yaml", ".toml", ".html", ".js", ".ipynb")
IGNORED = (".ci/english.py", "tests/test_checks.py", "requirements.lock", "LICENSE")


def problems(path: Path) -> list[str]:
    """A line for each pattern in a file: file, line, what was found, what to write instead."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [
        f"{path}:{number}: {match.group()!r}: write {instead}"
        for number, line in enumerate(lines, 1)
        for pattern, instead in PATTERNS.items()
        for match in re.finditer(pattern, line, re.IGNORECASE if pattern.islower() else 0)
    ]


def main() -> None:
    """Print all problems; exit with 1 if there are any."""
    names = sys.argv[1:] or subprocess.check_output(["git", "ls-files"], text=True).splitlines()
    files = [Path(f) for f in names if f.endswith(FILES) and not f.endswith(IGNORED)]
    found = [problem for file in files if file.is_file() for problem in problems(file)]
    print("\n".join(found) or f"{len(files)} files: plain English")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
