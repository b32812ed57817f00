"""How long a command takes to answer when there is nothing to train, beside `python -c "import hydra"`.

python benchmarks/startup.py [--rounds 5]

Each command and the import run in turn, the median seconds and their ratio are printed. What is promised: at most 4.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
TRAIN = [sys.executable, str(ROOT / "train.py")]
COMMANDS = {
    'python -c "import hydra"': [sys.executable, "-c", "import hydra"],
    "train.py --help": [*TRAIN, "--help"],
    "train.py --cfg job": [*TRAIN, "--cfg", "job"],
    "train.py optimizer.lrr=1 (a typo)": [*TRAIN, "optimizer.lrr=1"],
    "train.py optimizer.lr=-1 (a broken rule)": [*TRAIN, "optimizer.lr=-1"],
}


def main() -> None:
    """Time every command in turn and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=False)
            if turn:  # the first round warms the disk cache
                seconds[name].append(time.perf_counter() - start)
    base = statistics.median(next(iter(seconds.values())))
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:<42} {median:6.3f} s  {median / base:5.2f} x")


if __name__ == "__main__":
    main()
