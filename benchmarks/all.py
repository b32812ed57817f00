"""Every benchmark, one table.

python benchmarks/all.py [--large]

About an hour on two cores; --large adds the head on 5,000 photos with mobilenetv2 and resnet34, another hour.
"""

import argparse

import again
import full
import head
import linear
import loader
import memory
import serving
import startup
import synthetic
import upload
from common import show

RESNET34 = ["--backbone", "resnet34", "--random"]
LARGE = ["--photos", "5000"]


def main() -> None:
    """Measure one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    large = parser.parse_args().large
    rows = [
        *startup.measure([]),
        *loader.measure([]),
        *head.measure([]),
        *again.measure([]),
        *full.measure([]),
        *full.measure([*RESNET34, "--epochs", "1"]),
        *synthetic.measure([]),
        *memory.measure([]),
        *serving.measure([]),
        *upload.measure([]),
        *linear.measure([]),
    ]
    if large:
        rows += [*head.measure(LARGE), *head.measure([*LARGE, *RESNET34, "--no-sweep"])]
    show(rows)


if __name__ == "__main__":
    main()
