"""What profiler=local and the report cost: whole commands with and without them, in turn.

python benchmarks/profiler.py [--rounds 3] [--kinds head,full]

A head trains on features that a first run left in the cache.
"""

from common import Row, parser, show
from debugger import overhead

WAYS = {
    "without": [],
    "profiler": ["profiler=local"],
    "report": ["report=true"],
}


def measure(arguments: list[str] | None = None) -> list[Row]:
    """A row for each kind of fine-tuning, with the profiler and with the report."""
    p = parser(__doc__)
    p.add_argument("--kinds", default="head,gradual,full")
    a = p.parse_args(arguments)
    names = {"profiler": "profiler=local", "report": "report=true"}
    return overhead(a, WAYS, names, {"profiler": "<= 1.02 x", "report": "<= 3 s more"})


if __name__ == "__main__":
    show(measure())
