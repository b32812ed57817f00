"""The commands of each guide run, one block after the other, in an empty folder.

A block after the marker ``<!-- not run: REASON -->`` is not run; test_docs.py composes its commands.
"""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT, draw_few
from shells import sagehound_for_shells

GUIDES = sorted((ROOT / "docs/guides").glob("*.md"))
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
PRINTED = {  # what the pages say that their commands print
    "own_photos": ["test accuracy:", "photos/test/001.Amber_hound"],
    "search": ["best trial:", "test accuracy:"],
    "faults": ["LearningRateTooHigh", "LabelNoise", "RandomBackbone"],
    "sagemaker": ["test accuracy:", "endpoint", "nothing of Sagehound exists or runs"],
    "serving": ["Amber_hound", "of the baseline: "],
    "dogimages": ["test accuracy:"],
    "emulator": ["Completed", "{'mean': 3.0}", "epoch 2: loss=0.333;", "ValidationException"],
}
WITHOUT_A_MODEL = {  # runs whose model no command of their page needs; another run of a page writes one
    "own_photos": "hydra.run.dir=outputs/first",
    "search": "hydra.run.dir=outputs/best",
    "sagemaker": "hydra.run.dir=outputs/here",
    "dogimages": "hydra.run.dir=outputs/recipe",
}


def script(page: Path, folder: Path) -> str:
    """The blocks of a page as one shell script; blocks of Python are files that it runs."""
    lines = ["set -eo pipefail", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT"]
    for number, (left_out, language, code) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
        if left_out:
            continue
        if language == "sh":
            lines.append(code)
        elif language == "python":
            (folder / f"block{number}.py").write_text(code)
            lines.append(f"python block{number}.py")
        else:
            assert language in ("text", "nginx"), f"{page.name}: ```{language} is neither run nor marked"
    text = "\n".join(lines)
    if run := WITHOUT_A_MODEL.get(page.stem):
        assert text.count(run) == 1
        text = text.replace(run, f"{run} artifact=false")
    return text


def test_each_guide_says_what_it_prints() -> None:
    assert {page.stem for page in GUIDES} == set(PRINTED)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guides use the same drawn photos, so their features are computed once."""
    return tmp_path_factory.mktemp("guides-cache")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that data=demo would draw, with fewer photos. The guide own_photos draws all of them."""
    root = tmp_path_factory.mktemp("guides-data") / "demo"
    draw_few(root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_the_commands_of_the_guides_run(
    page: Path, tmp_path: Path, shared_cache: Path, few: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shutil.copytree(few, tmp_path / "data/demo")
    text = script(page, tmp_path).replace("8123", port)
    for path in tmp_path.glob("block*.py"):
        path.write_text(path.read_text().replace("8123", port))
    with sagehound_for_shells(tmp_path_factory.mktemp("shell")) as commands:
        environment = os.environ | {"PATH": commands, "SAGEHOUND_CACHE": str(shared_cache)}
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    missing = [words for words in PRINTED[page.stem] if words not in done.stdout + done.stderr]
    assert not missing, done.stdout[-2000:] + done.stderr[-3000:]
