"""The documentation cannot drift from the code where a test can tell."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from docs_commands import ALL, PAGES, commands
from helpers import ROOT, draw_few
from hydra import compose, initialize_config_dir

from sagehound.cli.launch_command import translated
from sagehound.config import Train, register, typed
from sagehound_launchers.config.schema import register as register_launch
from sagehound_launchers.search.space import parse
from sagehound_launchers.workflow import plan


@pytest.mark.parametrize("name", ["configuration", "rules"])
def test_generated_pages_are_current(name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/scripts/{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), f"run: python docs/scripts/{name}.py"


@pytest.mark.parametrize("group", [d.name for d in sorted((ROOT / "conf").iterdir()) if d.is_dir()])
def test_every_option_is_listed(group: str) -> None:
    for option in (ROOT / "conf" / group).glob("*.yaml"):
        assert f"`{group}={option.stem}`" in PAGES["docs/configuration.md"]


COMMANDS = commands()


@pytest.mark.parametrize(("program", "given"), COMMANDS)
def test_every_command_composes(program: str, given: str) -> None:
    overrides = [o for o in shlex.split(given, comments=True) if o != "-m"]
    try:
        (register_launch if program == "launch" else register)()
        if program == "launch":
            overrides = translated(overrides)
            if plan.of(overrides):  # its steps were composed
                return
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            typed(compose(program, overrides=parse(overrides).middle()))
    finally:
        register(Train)


def test_there_are_commands() -> None:
    assert len([program for program, _ in COMMANDS if program == "train"]) >= 8
    assert len([program for program, _ in COMMANDS if program == "launch"]) >= 8


PHOTOS = re.compile(
    r"\b(data(\.\w+)?|resume|best|model|endpoint|experiment|delete|approve|image)=|\.\.\.|permissions|^list"
)
DOGIMAGES = ("backbone=resnet34 trainer=local", "backbone=resnet34 trainer.max_epochs=5")  # the pages say so


@pytest.mark.parametrize(("program", "given"), COMMANDS)
def test_every_command_names_its_photos_or_its_model(program: str, given: str) -> None:
    """Without them, a command that is pasted downloads dogImages."""
    assert PHOTOS.search(given) or given in DOGIMAGES


KEYS = set(re.findall(r"^\| `([\w.]+)` \|", PAGES["docs/configuration.md"], flags=re.MULTILINE))
GROUPS = {key.partition(".")[0] for key in KEYS}
OPEN = (
    "aws.environment.",
    "aws.tags.",
    "augment.transform.",
    "callbacks.",
    "data.source.",
    "debugger.rules.",
    "hpo.space",
)
OPEN = (*OPEN, "hydra.", "logger.", "loss.", "optimizer.", "trainer.extra.")  # these take keys of the user's


@pytest.mark.parametrize("page", PAGES)
def test_every_key_exists(page: str) -> None:
    """Each key of a group that a page names as KEY=VALUE."""
    named = {
        key for key in re.findall(r"(?<![\w.+~/-])(\w+(?:\.\w+)+)(?==)", PAGES[page]) if key.split(".")[0] in GROUPS
    }
    assert not {key for key in named - KEYS if not key.startswith(OPEN)}


def test_the_figures_of_the_readme_are_measured() -> None:
    measured = (ROOT / "benchmarks/results.md").read_text()
    (table,) = re.findall(r"## Speed\n.*?(\| what .*?)\n\n", PAGES["README.md"], flags=re.DOTALL)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    figures = [number for row in rows for cell in row[1:3] for number in re.findall(r"\d[\d,]*\.?\d*", cell)]
    assert len(figures) == 2 * len(rows) >= 8
    assert not [number for number in figures if not re.search(rf"(?<![\d.,]){re.escape(number)}(?!\d)", measured)]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {word for words in re.findall(r"`make ([\w ]+)`", ALL) for word in words.split()}
    assert named
    assert named <= targets


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_lead_to_files(page: str) -> None:
    """Those of docs/ are checked by ``make docs``."""
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) + re.findall(r'(?:src|srcset|href)="([^"#]+)"', text)
    dead = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not dead


def test_the_readme_can_be_scanned() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150


@pytest.mark.slow
def test_the_python_of_the_documentation_runs(tmp_path: Path) -> None:
    """The blocks of README and of the page Python, in their order, in an empty folder."""
    blocks = re.findall(r"```python\n(.*?)```", PAGES["docs/python.md"], flags=re.DOTALL)
    assert len(blocks) == 2
    (readme,) = re.findall(r"```python\n(.*?)```", PAGES["README.md"], flags=re.DOTALL)
    check = "assert len(probabilities) == 2 and best.label in model.classes and again.classes == photos.classes"
    programs = ["\n".join([*blocks, check])]
    programs += [] if readme == blocks[0] else [readme]
    draw_few(tmp_path / "data/demo")
    for number, code in enumerate(programs):
        (tmp_path / f"part{number}.py").write_text(code)
        command = [sys.executable, f"part{number}.py"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]


@cache
def literals() -> str:
    """All texts of the code; what is filled in is written as ``...``."""
    texts = []
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "launchers/sagehound_launchers").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "..." for v in node.values]
                texts.append("".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


MESSAGES = re.findall(r"^\| `([^`]+)` \|", PAGES["docs/troubleshooting.md"], flags=re.MULTILINE)


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_are_those_of_the_code(message: str) -> None:
    pattern = r"[^\n]*".join(re.escape(part) for part in message.split("..."))
    assert re.search(pattern, literals()), "the code has no such message"


FINDINGS = [
    " ".join(text.split())
    for finding in re.findall(
        r"^warning: (?:debugger|profiler): \w+: (.+?)\.\sLikely\scause: (.+?)(?:\. |\n```)", ALL, re.M | re.S
    )
    for text in finding
]


@pytest.mark.parametrize("quoted", FINDINGS)
def test_quoted_findings_are_those_of_the_code(quoted: str) -> None:
    texts = [text for text in literals().splitlines() if len(re.findall(r"[a-z]{2,}", text)) >= 4]
    patterns = (re.escape(text).replace(re.escape("..."), ".+") for text in texts)
    assert any(re.fullmatch(pattern, quoted) for pattern in patterns), "no rule prints this"


def test_there_are_messages() -> None:
    assert len(FINDINGS) >= 8
    assert len(MESSAGES) >= 30
