"""What profiler=local and the report cost: whole commands with and without them, in turn.

python benchmarks/profiler.py [--rounds 3] [--kinds head,full] [--inside]

A head trains on features that a first run left in the cache. With --inside, one command of each kind adds up the
seconds that it spends in the profiler's code, which a clock that changes between commands does not blur.
"""

import sys
from typing import Any

from common import Row, parser, show
from debugger import child, inside, overhead

WAYS = {
    "without": [],
    "profiler": ["profiler=local"],
    "report": ["report=true"],
}


def measure(arguments: list[str] | None = None) -> list[Row]:
    """A row for each kind of fine-tuning, with the profiler and with the report."""
    p = parser(__doc__)
    p.add_argument("--kinds", default="head,gradual,full")
    p.add_argument("--inside", action="store_true")
    a = p.parse_args(arguments)
    if a.inside:
        return inside(a, __file__, WAYS, {"profiler": "profiler=local"}, "<= 1.02 x")
    names = {"profiler": "profiler=local", "report": "report=true"}
    return overhead(a, WAYS, names, {"profiler": "<= 1.02 x", "report": "<= 3 s more"})


def parts() -> list[tuple[Any, str]]:
    """What the profiler does: samples, parts of steps, operators, and its files."""
    from sagehound.profiler.operators import Operators
    from sagehound.profiler.sampler import Sampler
    from sagehound.profiler.step_profiler import StepProfiler
    from sagehound.profiler.times import Times

    return [
        *((Sampler, name) for name in ("__init__", "_sample", "close")),
        *((StepProfiler, name) for name in ("start", "stop")),
        *((Operators, name) for name in ("on_train_batch_start", "on_train_batch_end", "on_train_end")),
        *((Times, name) for name in ("__enter__", "write")),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:], parts())
    else:
        show(measure())
