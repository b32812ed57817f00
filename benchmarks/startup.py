"""How long a command takes to answer when there is nothing to train, beside `python -c "import hydra"`.

python benchmarks/startup.py [--rounds 5]

Each command and the import run in turn. What is promised: at most four times the import, and launch.py as train.py.
"""

import argparse
import subprocess
import sys
import time

from common import ROOT, Row, median, show

PROGRAMS = ("train.py", "launch.py")
IMPORT = [sys.executable, "-c", "import hydra"]
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
    commands = {"import": IMPORT}
    for name, given in COMMANDS.items():
        commands |= {f"{program} {name}": [sys.executable, str(ROOT / program), *given] for program in PROGRAMS}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=False)
            if turn:  # the first round warms the disk cache
                seconds[name].append(time.perf_counter() - start)
    base = median(seconds.pop("import"))
    rows = [
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
