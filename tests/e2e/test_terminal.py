"""The real command on a pseudo-terminal with 80 columns."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from helpers import ROOT, small
from run_helpers import curves

pytestmark = pytest.mark.slow

COLUMNS = 80


def screen(output: str) -> list[str]:
    """The final lines on a terminal that supports text, CR, LF, cursor up and erase line."""
    lines, row, column = [""], 0, 0
    for control, text in re.findall(r"(\x1b\[[?\d;]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", output):
        if text:
            lines[row] = lines[row].ljust(column)[:column] + text + lines[row][column + len(text) :]
            column += len(text)
        elif control == "\r":
            column = 0
        elif control == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif up := re.fullmatch(r"\x1b\[(\d*)A", control):
            row = max(0, row - int(up.group(1) or 1))
        elif control == "\x1b[2K":
            lines[row] = ""
    return [line.rstrip() for line in lines]


def on_terminal(folder: Path, overrides: list[str], *, stop_at: str = "") -> tuple[int, str]:
    """Run train.py on a terminal; returns its exit code and output. ``stop_at``: send Ctrl-C after this text."""
    ours, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides],
        cwd=folder,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment | {"TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(terminal)
    written = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the process closed its end
            break
        written += chunk
        if stop_at and stop_at.encode() in written:
            process.send_signal(signal.SIGINT)
            stop_at = ""
    os.close(ours)
    return process.wait(), written.decode()


def test_each_epoch_prints_one_line_with_its_scores(photos: Path, weights: Path, tmp_path: Path) -> None:
    given = [*small(photos, weights), "trainer.max_epochs=3", "hydra.run.dir=run"]
    code, written = on_terminal(tmp_path, given)
    assert code == 0, written
    shown = screen(written)
    losses, accuracies, f1, train = (
        [value for _, value in curves(tmp_path / "run")[tag]]
        for tag in ("valid/loss", "valid/top1", "valid/macro_f1", "train/loss")
    )
    assert [line for line in shown if line.startswith("epoch")] == [
        f"epoch {i + 1}/3: valid loss {losses[i]:.4f}, valid top-1 {accuracies[i]:.1%}, "
        f"valid macro F1 {f1[i]:.4f}, train loss {train[i]:.4f}"
        for i in range(3)
    ]
    table = [line for line in shown if line[:1] in "┏┃┡│└" and line]
    assert len(table) == 7, "the final table is drawn"
    assert max(map(len, table)) <= COLUMNS
    assert re.search(r"epoch 2/3\S* +\S*━", written), "a bar shows the steps of the running epoch"
    assert not [line for line in shown if "━━" in line and line not in table], "the bar disappears"


def test_a_stopped_run_leaves_no_bar(photos: Path, weights: Path, tmp_path: Path) -> None:
    given = [*small(photos, weights), "trainer.max_epochs=500", "schedule=constant", "hydra.run.dir=run"]
    code, written = on_terminal(tmp_path, given, stop_at="epoch 3/500: ")
    assert code == 130, written
    shown = [line for line in screen(written) if line]
    assert shown[-1].startswith("sagehound: stopped by SIGINT; resume with")
    assert not [line for line in shown if "━━" in line]
    assert written.endswith("\x1b[?25h") or written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l"), (
        "the cursor is visible"
    )
