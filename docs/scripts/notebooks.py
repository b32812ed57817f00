"""Executes the notebooks and writes their pages with outputs: a part of `make pictures`, about five minutes.

Usage: python docs/scripts/notebooks.py [NAME...]
"""

import io
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from PIL import Image

ROOT = Path(__file__).parents[2]
NOTEBOOKS, PAGES = ROOT / "notebooks", ROOT / "docs/notebooks"
SECONDS = 600  # for a cell
WIDTH = 900  # pixels of a picture
LINES = 24  # of a cell's text output


def main() -> None:
    """Write the page of each notebook, or of those that the command names."""
    names = sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    for name in names:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
            write(notebook, name, folder)
        size = sum(path.stat().st_size for path in PAGES.glob(f"{name}*/*"))
        print(f"docs/notebooks/{name}.md, pictures of {size / 1000:.0f} KB")


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Execute all cells in a folder; their outputs are added to the notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for !sagehound
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(folder)}}).execute()


def write(notebook: nbformat.NotebookNode, name: str, folder: str) -> None:
    """Write an executed notebook as a page of docs/, with its pictures beside it.

    Args:
        notebook: with outputs.
        name: of the page.
        folder: in which it was executed; left out of the outputs.
    """
    pictures = PAGES / f"{name}_files"
    shutil.rmtree(pictures, ignore_errors=True)
    resources = {"output_files_dir": pictures.name, "unique_key": name}
    body, resources = MarkdownExporter().from_notebook_node(shortened(notebook, folder), resources)
    pictures.mkdir(parents=True)
    for path, content in resources["outputs"].items():
        (PAGES / path).write_bytes(small(content, Path(path).suffix))
    note = f"<!-- written by docs/scripts/notebooks.py -->\n\nThis page is `notebooks/{name}.ipynb` with its outputs."
    title, _, rest = body.strip().partition("\n")
    (PAGES / f"{name}.md").write_text(f"{title}\n\n{note}\n{relinked(rest)}\n", encoding="utf-8")


def shortened(notebook: nbformat.NotebookNode, folder: str) -> nbformat.NotebookNode:
    """The notebook with text outputs joined and cut, and without colours, styles of tables and the folder's path."""
    for cell in notebook.cells:
        outputs: list[nbformat.NotebookNode] = []
        for output in cell.get("outputs", []):
            text = printed(output)
            if text is None:
                outputs.append(without_style(output))
            elif outputs and outputs[-1].output_type == "stream":
                outputs[-1]["text"] += text
            else:
                outputs.append(nbformat.v4.new_output("stream", text=text))
        for output in outputs:
            if output.output_type == "stream":
                output["text"] = cut(output["text"].replace(f"{folder}/", "").replace(folder, "."))
        if "outputs" in cell:
            cell["outputs"] = outputs
    return notebook


def printed(output: nbformat.NotebookNode) -> str | None:
    """The text that a cell has printed, also by rich, whose lines are HTML; None for tables, pictures and values."""
    text: str | None = output.get("text")
    if "<pre style=" in output.get("data", {}).get("text/html", ""):
        text = output["data"]["text/plain"]
    return None if text is None else re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text)


def without_style(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The output with its table as one line of plain HTML."""
    if html := output.get("data", {}).get("text/html"):
        html = re.sub(r"<style.*?</style>\s*", "", html, flags=re.DOTALL).replace(' border="1"', "")
        output["data"]["text/html"] = re.sub(r"\n\s*", "", html)
    return output


def cut(text: str) -> str:
    """The text without the middle lines, if it has many."""
    lines = text.rstrip().splitlines()
    if len(lines) > LINES:
        lines = [*lines[: LINES // 2], f"... {len(lines) - LINES} lines ...", *lines[-LINES // 2 :]]
    return "\n".join(lines) + "\n"


def relinked(text: str) -> str:
    """Links to ../docs/ as links of a page in docs/notebooks/."""
    return text.replace("](../docs/", "](../")


def small(content: bytes, suffix: str) -> bytes:
    """A picture of at most ``WIDTH`` pixels; a PNG with at most 64 colours."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)))
    buffer = io.BytesIO()
    if suffix == ".png":
        picture.quantize(64).save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
