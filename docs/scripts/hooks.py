"""Adds pages that lie outside docs/ to the site: those of the emulator, the benchmarks and the changelog."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = {
    "emulator.md": "launchers/sagemaker_emulator/README.md",
    "emulator-rules.md": "launchers/sagemaker_emulator/RULES.md",
    "benchmarks.md": "benchmarks/results.md",
    "changes.md": "CHANGELOG.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and the pictures that they show."""
    for name, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        for other, path in PAGES.items():
            text = text.replace(f"]({Path(path).name})", f"]({other})")
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            files.append(File.generated(config, picture, content=((ROOT / source).parent / picture).read_bytes()))
        files.append(File.generated(config, name, content=text))
    return files
