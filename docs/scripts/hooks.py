"""Adds pages that lie outside docs/ to the site: the emulator's README, the benchmarks and the changelog."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "emulator.md": "launchers/sagemaker_emulator/README.md",
    "benchmarks.md": "benchmarks/results.md",
    "changes.md": "CHANGELOG.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and the pictures that they show."""
    for name, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            path = ROOT / source
            files.append(File.generated(config, picture, content=(path.parent / picture).read_bytes()))
        files.append(File.generated(config, name, content=text))
    return files
