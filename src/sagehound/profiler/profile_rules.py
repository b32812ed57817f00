"""Rules over the profile of a run, with AWS's names and documented thresholds.

A rule is a function from a ``Profile`` to a finding or None; it raises ``Missing`` if it lacks what it needs.
``DataBound`` and ``FewThreads`` are Sagehound's own.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sagehound.debugger.observation import Missing
from sagehound.debugger.rules.rule import Finding
from sagehound.profiler.sampler import Sample

_WORKING = ("features", "train")  # phases in which photos are read and the network computes
_IDLE, _BUSY, _LOW = 10, 90, 70  # percent
_SMALL = 16  # photos of a batch
_SHORT = 0.02  # seconds of a step


@dataclass(frozen=True)
class Profile:
    """What was measured.

    Attributes:
        samples: of the whole run.
        steps: seconds of each train step.
        parts: milliseconds of the parts of a mean step.
        started: seconds from the start of the program to the first step; None without a step.
        batch_size: photos of a step.
        workers: threads that read photos.
        reads_photos: whether train steps read photos, not cached features.
        own_transform: whether photos go through a transform of the user's, one at a time.
        threads: that compute an operator on the CPU.
        cores: of the CPU, which this process may use.
    """

    samples: Sequence[Sample] = ()
    steps: Sequence[float] = ()
    parts: Mapping[str, float] = field(default_factory=dict)
    started: float | None = None
    batch_size: int = 64
    workers: int = 1
    reads_photos: bool = True
    own_transform: bool = False
    threads: int = 1
    cores: int = 1

    def column(self, name: str, phases: Sequence[str] = _WORKING) -> npt.NDArray[np.float64]:
        """A column of the samples in some phases."""
        return np.array([float(s[name]) for s in self.samples if s["phase"] in phases and name in s])

    @property
    def gpus(self) -> list[str]:
        """The columns of the GPUs' use.

        Raises:
            Missing: there is no GPU, or no sample while it could be used.
        """
        names = [n for n in (self.samples[-1] if self.samples else {}) if n.startswith("gpu") and "_" not in n]
        if not names or not len(self.column(names[0])):
            raise Missing("samples of a GPU")
        return names


def low_gpu_utilization(p: Profile) -> Finding | None:
    """The 95th percentile of a GPU's use is below 70 %, or it is above and the 5th percentile is below 10 %."""
    for gpu in p.gpus:
        low, high = np.percentile(p.column(gpu), [5, 95])
        if high < _LOW or low < _IDLE:
            meaning = f"{gpu} is used to {high:.0f} % at most, and to {low:.0f} % at times"
            return _finding("LowGPUUtilization", gpu, high, _LOW, meaning, "the GPU waits for photos or for Python", p)
    return None


def cpu_bottleneck(p: Profile) -> Finding | None:
    """More than half of the time a GPU is below 10 % while the CPU is above 90 %."""
    idle = p.column(p.gpus[0]) < _IDLE
    share = float(np.mean(idle & (p.column("cpu") > _BUSY)))
    if share <= 0.5:
        return None
    meaning = f"for {share:.0%} of the time the GPU waits while all cores are busy"
    cause = "decoding photos takes all cores"
    return _made("CPUBottleneck", "cpu", share, 0.5, meaning, cause, "data.cache=memmap")


def io_bottleneck(p: Profile) -> Finding | None:
    """More than half of the time a GPU is below 10 % while processes wait for disks for more than 50 %."""
    share = float(np.mean((p.column(p.gpus[0]) < _IDLE) & (p.column("iowait") > 50)))
    if share <= 0.5:
        return None
    meaning = f"for {share:.0%} of the time the GPU waits for disks"
    return _made("IOBottleneck", "iowait", share, 0.5, meaning, "the disk is slow", "data.cache=jpeg")


def batch_size(p: Profile) -> Finding | None:
    """CPU, GPU and GPU memory are all below 70 % (95th percentile); without a GPU: see below.

    Without a GPU, a batch of fewer than 16 photos is too small if half of the steps take less than 20 ms: then the work
    around a step, some milliseconds, is a large part of it.
    """
    larger = f"data.batch_size={max(4 * p.batch_size, 32)}"
    try:
        gpu = p.gpus[0]
    except Missing:
        if not p.steps:
            raise
        median = float(np.median(p.steps))
        if p.batch_size >= _SMALL or median >= _SHORT:
            return None
        meaning = f"a step of {p.batch_size} photos takes {1000 * median:.1f} ms, much of it around the computing"
        return _made("BatchSize", "step", median, _SHORT, meaning, "the batch is too small", larger)
    highest = max(float(np.percentile(p.column(name), 95)) for name in ("cpu", gpu, f"{gpu}_memory"))
    if highest >= _LOW:
        return None
    meaning = f"CPU, GPU and its memory are used to {highest:.0f} % at most"
    return _made("BatchSize", gpu, highest, _LOW, meaning, "the batch is too small", larger)


def gpu_memory_increase(p: Profile) -> Finding | None:
    """The used memory of a GPU grows by more than 5 % of the whole, from the second to the last third of training."""
    for gpu in p.gpus:
        memory = p.column(f"{gpu}_memory", ("train",))
        if len(memory) < 9:
            raise Missing("nine samples of the training")
        third = len(memory) // 3
        rise = float(memory[-third:].mean() - memory[third : 2 * third].mean())
        if rise > 5:
            meaning = f"the memory of {gpu} grows by {rise:.0f} % while the model is trained"
            cause = "tensors are kept, by a callback or a loss of your own"
            return _made("GPUMemoryIncrease", f"{gpu}_memory", rise, 5, meaning, cause, "")
    return None


def load_balancing(p: Profile) -> Finding | None:
    """The use of two GPUs differs by more than 50 % for more than half of the time."""
    if len(p.gpus) < 2:
        raise Missing("a second GPU")
    uses = np.stack([p.column(gpu, ("train",)) for gpu in p.gpus])
    share = float(np.mean(np.ptp(uses, axis=0) > 50))
    if share <= 0.5:
        return None
    meaning = f"for {share:.0%} of the time the GPUs differ by more than 50 %"
    return _made(
        "LoadBalancing", "gpu", share, 0.5, meaning, "one process has more work than the others", "trainer.devices=1"
    )


def few_threads(p: Profile) -> Finding | None:
    """Without a GPU, operators use at most half of the cores, and this process half of the time less than 70 % of them.

    The rule is Sagehound's own.
    """
    cpu = p.column("process_cpu")
    if not len(cpu) or any(name.startswith("gpu") for name in p.samples[-1]):
        raise Missing("samples of a machine without a GPU")
    used = float(np.median(cpu))
    if 2 * p.threads > p.cores or used >= _LOW:
        return None
    meaning = (
        f"operators are computed by {p.threads} threads on {p.cores} cores, of which this program uses {used:.0f} %"
    )
    cause = "OMP_NUM_THREADS or trainer.threads is low"
    return _made("FewThreads", "process_cpu", used, _LOW, meaning, cause, f"trainer.threads={p.cores}")


def step_outlier(p: Profile) -> Finding | None:
    """Ten or more steps take longer than the mean by three standard deviations."""
    if len(p.steps) < 30:
        raise Missing("30 train steps")
    steps = np.array(p.steps[3:])  # the first ones load libraries
    limit = float(steps.mean() + 3 * steps.std())
    outliers = int((steps > limit).sum())
    if outliers < 10:
        return None
    meaning = f"{outliers} of {len(steps)} steps take longer than {1000 * limit:.0f} ms"
    cause = "another program uses the machine, or single photos are large"
    return _made("StepOutlier", "step", outliers, 10, meaning, cause, "data.cache=jpeg" if p.reads_photos else "")


def max_initialization_time(p: Profile) -> Finding | None:
    """The first train step begins later than 20 minutes after the start of the program."""
    if p.started is None:
        raise Missing("a train step")
    if p.started <= 1200:
        return None
    meaning = f"the first train step began after {p.started / 60:.0f} minutes"
    return _made(
        "MaxInitializationTime",
        "start",
        p.started,
        1200,
        meaning,
        "photos are read or features computed",
        f"data.workers={min(max(16, 2 * p.workers), 32)}",
    )


def data_bound(p: Profile) -> Finding | None:
    """More than 30 % of the time of train steps is spent waiting for photos; the rule is Sagehound's own."""
    if not p.parts or not p.reads_photos:
        raise Missing("train steps that read photos")
    whole = sum(p.parts.get(name, 0.0) for name in ("data", "forward", "backward", "optimizer"))
    share = p.parts.get("data", 0.0) / max(whole, 1e-9)
    if share <= 0.3:
        return None
    cores = os.cpu_count() or 1
    override = f"data.workers={min(max(2 * cores, 4 * p.workers), 16)}" if p.workers < 16 else "data.cache=memmap"
    meaning = f"{share:.0%} of a train step is waiting for photos, read by {p.workers} threads"
    cause = "photos are read slower than the network computes"
    if p.own_transform:
        cause, override = "augment.transform takes long, and changes one photo at a time, so that seeds decide", ""
    return _made("DataBound", "data", share, 0.3, meaning, cause, override)


RULES: tuple[Callable[[Profile], Finding | None], ...] = (
    data_bound,
    low_gpu_utilization,
    cpu_bottleneck,
    io_bottleneck,
    batch_size,
    few_threads,
    gpu_memory_increase,
    load_balancing,
    step_outlier,
    max_initialization_time,
)


def evaluate(p: Profile) -> tuple[list[Finding], dict[str, str]]:
    """Evaluate every rule; returns the findings, and for rules that could not be evaluated the reason."""
    findings, missing = [], {}
    for rule in RULES:
        try:
            result = rule(p)
        except Missing as error:
            missing[rule.__name__] = f"it needs {error}"
            continue
        if result is not None:
            findings.append(result)
    return findings, missing


def _finding(rule: str, what: str, value: float, limit: float, meaning: str, cause: str, p: Profile) -> Finding:
    """A finding about a GPU that waits: more reading threads if photos are read, else a larger batch."""
    more = f"data.workers={min(max(8, 2 * p.workers), 16)}" if p.reads_photos else f"data.batch_size={4 * p.batch_size}"
    return _made(rule, what, value, limit, meaning, cause, more)


def _made(rule: str, what: str, value: float, limit: float, meaning: str, cause: str, override: str) -> Finding:
    return Finding(rule, None, True, what, float(value), float(limit), meaning, cause, override)
