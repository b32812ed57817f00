"""How long a command takes to answer when there is nothing to train, beside `python -c "import hydra"`; and the import.

python benchmarks/startup.py [--rounds 5]

Each command and the imports run in turn. What is promised: at most four times the import of hydra, launch.py as
train.py, and that `import sagehound` takes at most 0.1 s more than Python itself.
"""

import argparse
import subprocess
import sys
import time

from common import ROOT, Row, median, show

PROGRAMS = ("train.py", "launch.py")
IMPORT = [sys.executable, "-c", "import hydra"]
NOTHING = [sys.executable, "-c", "pass"]
OURS = [sys.executable, "-c", "import sagehound"]
COMMANDS = {
    "--help": ["--help"],
    "--cfg job": ["--cfg", "job"],
    "a typo (optimizer.lrr=1)": ["optimizer.lrr=1"],
    "a broken rule (optimizer.lr=-1)": ["optimizer.lr=-1"],
}


def measure(arguments: list[str] | None = None) -> list[Row]:
    """A row for each command of each program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(arguments).rounds
    commands = {"import": IMPORT, "nothing": NOTHING, "ours": OURS}
    for name, given in COMMANDS.items():
        commands |= {f"{program} {name}": [sys.executable, str(ROOT / program), *given] for program in PROGRAMS}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=False)
            if turn:  # the first round warms the disk cache
                seconds[name].append(time.perf_counter() - start)
    base, nothing, ours = (median(seconds.pop(name)) for name in ("import", "nothing", "ours"))
    rows = [
        Row(
            "import sagehound, beside Python",
            f"{ours:.3f} s",
            f"{nothing:.3f} s",
            f"+{ours - nothing:.3f} s",
            "<= 0.1 s",
        )
    ]
    rows += [
        Row(name, f"{median(s):.2f} s", f"{base:.2f} s", f"{median(s) / base:.2f} x", "<= 4 x")
        for name, s in seconds.items()
    ]
    for name in COMMANDS:
        launch, train = (median(seconds[f"{program} {name}"]) for program in reversed(PROGRAMS))
        what = f"launch.py beside train.py, {name}"
        rows.append(Row(what, f"{launch:.2f} s", f"{train:.2f} s", f"{launch / train:.2f} x", "about 1 x"))
    return rows


if __name__ == "__main__":
    show(measure())
