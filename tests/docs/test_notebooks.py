"""Each notebook runs from its first cell to its last one, in an empty folder."""

import base64
import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT, draw_few
from PIL import Image
from shells import sagehound_for_shells

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def execute(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, smaller: Mapping[str, str]) -> str:
    """Execute a notebook in a folder; returns the text that its cells have printed.

    Args:
        path: of the notebook.
        folder: the current one of its kernel; it gets half of the photos that data=demo draws.
        monkeypatch: of the test.
        smaller: what stands once in the cells, and what is run in its place.
    """
    monkeypatch.setenv("IPYTHONDIR", str(folder / ".ipython"))
    draw_few(folder / "data/demo")
    text = path.read_text()
    for given, few in smaller.items():
        assert text.count(given) == 1
        text = text.replace(given, few)
    notebook = nbformat.reads(text, as_version=4)
    with sagehound_for_shells(folder / "shell") as commands:
        monkeypatch.setenv("PATH", commands)  # for !sagehound
        nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell.source for cell in code if cell.outputs or cell.execution_count]
    for before, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        assert cell.cell_type == "markdown" or before.cell_type == "markdown", f"not explained: {cell.source}"


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = execute(ROOT / "notebooks/quickstart.ipynb", tmp_path, monkeypatch, {})
    assert "test photos are right" in text
    assert "warning" not in text.lower()


@pytest.mark.slow
def test_train_and_deploy_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the emulator, from the audit to the clean-up."""
    text = execute(
        ROOT / "notebooks/train_and_deploy.ipynb", tmp_path, monkeypatch, {'max_jobs\\": 4': 'max_jobs\\": 2'}
    )
    for words in (
        "jobs, endpoints and logs",
        "dogs-two-layers ",
        "sagemaker/dogs@1",
        "nothing of Sagehound exists or runs",
    ):
        assert words in text, text[-3000:]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """docs/scripts/notebooks.py."""
    spec = importlib.util.spec_from_file_location("write_notebooks", ROOT / "docs/scripts/notebooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_pages_have_the_cells_of_the_notebooks(path: Path, script: ModuleType) -> None:
    page = (ROOT / f"docs/notebooks/{path.stem}.md").read_text()
    for cell in nbformat.read(path, as_version=4).cells:
        source = script.relinked(cell.source)
        title, _, rest = source.partition("\n\n") if source.startswith("# ") else ("", "", source)
        assert title in page, "run: python docs/scripts/notebooks.py"
        assert rest in page, "run: python docs/scripts/notebooks.py"


def test_a_page_has_outputs_and_small_pictures(
    tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    png = io.BytesIO()
    Image.new("RGB", (2000, 1000), "red").save(png, "PNG")
    v4 = nbformat.v4
    outputs = [
        v4.new_output("stream", text="\x1b[31mred\x1b[0m in /tmp/there/run\n" + "line\n" * 100),
        v4.new_output("display_data", {"image/png": base64.b64encode(png.getvalue()).decode()}),
        v4.new_output("display_data", {"text/html": '<style scoped>x</style>\n<table border="1"><tr></tr></table>'}),
    ]
    cells = [v4.new_markdown_cell("# Title\n\n[page](../docs/model.md)"), v4.new_code_cell("print()", outputs=outputs)]
    monkeypatch.setattr(script, "PAGES", tmp_path)
    script.write(v4.new_notebook(cells=cells), "small", "/tmp/there")
    page = (tmp_path / "small.md").read_text()
    assert page.startswith("# Title\n\n<!-- written by docs/scripts/notebooks.py -->")
    assert "[page](../model.md)" in page
    assert "red in run" in page
    assert page.count("line") < 30
    assert "<table><tr></tr></table>" in page
    (picture,) = (tmp_path / "small_files").iterdir()
    assert f"(small_files/{picture.name})" in page
    assert Image.open(picture).size == (900, 450)
