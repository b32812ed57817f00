"""Manages a run's folder, which contains the files of one run. Imports no torch."""

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from omegaconf import OmegaConf

from sagehound.config import Train, as_dict, refuse_overlap
from sagehound.errors import ConfigError
from sagehound.storage.atomic import locked, write_text, writing_failed
from sagehound.system import console, interrupts

MODEL = "model.tar.gz"  # same as archive.NAME, without the imports of that module
_SIGNS = ("config.yaml", "metrics.json", "checkpoints/*.ckpt")  # a folder with one of these contains a run
_PICTURES = (  # files that only results=all writes
    *("report.html", "insights.json", "without_suspicious.csv"),
    *(
        f"plots/{name}.png"
        for name in ("confusion", "accuracy_by_class_size", "worst_mistakes", "curves", "reliability")
    ),
)
_OF_PREDICTIONS = ("bias.json", "bias.csv")  # files that launch.py makes from the predictions
# files that results=scores does not write
_OF_ALL = (MODEL, "predictions.csv", "per_class.csv", "confusions.csv", "history.csv", *_PICTURES)
_TENSORS = (
    "collections/*/*_collections.json",
    "events/*/*_*.tfevents",
    "index/*/*_*.json",
    "training_job_end.ts",
    "claim.smd",
)
_WRITTEN = (
    *(
        "config.yaml",
        "overrides.yaml",
        "hydra.yaml",
        "audit.json",
        "splits.csv",
        *("doctor.json", "suspects.csv", "doctor.html"),
        "metrics.json",
        *_OF_ALL,
        *_OF_PREDICTIONS,
    ),
    *(f"checkpoints/{name}.ckpt" for name in ("best", "last", "start", "best_epoch")),
    *("checkpoints/*/*.ckpt",),  # of the user's callbacks
    *("tensorboard/events.out.tfevents.*", "tensorboard/hparams.yaml"),
    *("loggers.json", "csv/metrics.csv", "csv/hparams.yaml", "*-profile.txt"),
    *(f"profile/{name}" for name in ("samples.csv", "summary.json", "findings.json", "trace.json.gz")),
    *("debugger/findings.json", "debugger/findings_saved.json"),
    *(f"debugger/{folder}/{name}" for folder in ("tensors", "tensors-[0-9]*") for name in _TENSORS),
)

_claimed: list[Path] = []  # folders that this process made, the inner ones first


class RunFolder:
    """A run's folder, locked so that no other process writes to it."""

    def __init__(self, path: Path, cfg: Train) -> None:
        self.path, self._cfg = path, cfg
        self.begun = False

    def check(self) -> None:
        """Refuse the folder of another run, unless the config sets ``overwrite``.

        Raises:
            ConfigError: the folder contains another run, or is inside the photos' folder; says what to do.
        """
        refuse_overlap(self._cfg.data.root, self.path)
        resume = self._cfg.resume
        if resume and Path(resume).resolve().is_relative_to(self.path.resolve()):
            if self._cfg.overwrite:
                raise ConfigError("overwrite=true would remove the run that resume= continues: drop one of them")
        elif not self._cfg.overwrite:
            refuse_another_run(self.path)
        else:
            _files(self.path, _WRITTEN)

    def begin(self, overrides: Sequence[str] | None) -> None:
        """Write config.yaml, and overrides.yaml if there are overrides, once the run has passed its checks."""
        self.begun = True
        if self._cfg.overwrite:
            remove_run(self.path)
        write_config(self.path, self._cfg, overrides)

    def remove_stale(self) -> None:
        """Remove files of the run's earlier epochs that this run does not replace."""
        kind = str(self._cfg.results)
        replaced = {"scores": _OF_ALL, "tables": (MODEL, *_PICTURES)}.get(kind, (MODEL,))
        stale = [self.path / name for name in (*replaced, *_OF_PREDICTIONS) if (self.path / name).exists()]
        for path in stale:
            path.unlink()
        if stale and (kind in ("scores", "tables") or not self._cfg.artifact):
            names = ", ".join(path.name for path in stale)
            why = f"results={kind}" if kind in ("scores", "tables") else "artifact=false"
            console.info(f"removed {names}, made with older weights: {why} writes no new files")


@contextmanager
def opened(path: Path, cfg: Train) -> Iterator[RunFolder]:
    """Lock a run's folder. A run that is refused before it begins leaves no file.

    Raises:
        ConfigError: the folder contains another run.
        SagehoundError: another process is writing to it.
    """
    lock = path / ".lock"
    existed = lock.exists()
    with locked(lock, busy=f"another run is writing to {path}: give hydra.run.dir=..."):
        run = RunFolder(path, cfg)
        try:
            run.check()
            yield run
        finally:
            if not (run.begun or existed):
                lock.unlink(missing_ok=True)


def holds_run(path: Path) -> bool:
    """Whether a folder contains the config, scores or checkpoints of a run."""
    return any(True for sign in _SIGNS for _ in path.glob(sign))


def holds_trial(path: Path) -> bool:
    """Whether a folder contains a sweep trial's config, and its lock, scores or job."""
    names = ("config.yaml", "overrides.yaml"), (".lock", "metrics.json", "job.json")
    return all((path / name).exists() for name in names[0]) and any((path / name).exists() for name in names[1])


def refuse_another_run(path: Path) -> None:
    """Refuse a folder that contains a run, or a file that a run would replace.

    Raises:
        ConfigError: names the folder and says what to do.
    """
    if holds_run(path):
        resumes = (path / "checkpoints" / "last.ckpt").exists()
        resume = f"continue it with resume={path}, " if resumes else "it left no checkpoint to resume from; "
        raise ConfigError(
            f"{path} holds another run: {resume}replace it with overwrite=true, or give another hydra.run.dir"
        )
    refuse_files(path, _WRITTEN, "give another hydra.run.dir, or replace it with overwrite=true")


def refuse_files(path: Path, patterns: Sequence[str], advice: str) -> None:
    """Refuse a folder with files that would be replaced.

    Raises:
        ConfigError: names the first file and says what to do.
    """
    if files := sorted(file for pattern in patterns for file in path.glob(pattern)):
        raise ConfigError(f"{path} holds {files[0].relative_to(path)}, which would be replaced: {advice}")


def remove_run(path: Path, *more: str) -> None:
    """Remove the files that a run writes, and files that match ``more``; other files stay.

    Raises:
        ConfigError: a folder in ``path`` is a link.
        SagehoundError: a file cannot be removed.
    """
    remove(path, [*_WRITTEN, *more])


def remove(path: Path, patterns: Sequence[str]) -> None:
    """Remove files of a folder, temporary files that a killed process left, and folders that are then empty.

    Raises:
        ConfigError: a folder in ``path`` is a link.
        SagehoundError: a file cannot be removed.
    """
    files = _files(path, patterns)
    for file in files:
        try:
            file.unlink()
        except OSError as error:
            raise writing_failed(file, error) from error
    inner = {folder for file in files for folder in file.parents if folder.is_relative_to(path)} - {path}
    for folder in sorted(inner, key=lambda f: -len(f.parts)):
        with suppress(OSError):  # it contains other files
            folder.rmdir()


def _files(path: Path, patterns: Sequence[str]) -> set[Path]:
    """The files of a folder that match, and their temporary files.

    Raises:
        ConfigError: a folder in ``path`` is a link; the files behind it may belong to another program.
    """
    files = {file for pattern in patterns for file in path.glob(pattern) if not file.is_dir()}
    for pattern in patterns:
        place, _, name = pattern.rpartition("/")
        temporary = re.compile(rf"\.{re.escape(name)}\.\d+\.tmp")
        files |= {file for file in path.glob(f"{place}/.*.tmp".lstrip("/")) if temporary.fullmatch(file.name)}
    for file in files:
        for folder in file.parents:
            if folder == path:
                break
            if folder.is_symlink():
                raise ConfigError(f"{folder} is a link, and overwrite=true removes nothing behind a link: remove it")
    return files


def write_config(path: Path, cfg: Train, overrides: Sequence[str] | None) -> None:
    """Write config.yaml with every key resolved, and overrides.yaml, from which a run is resumed."""
    write_text(path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(as_dict(cfg))))
    if overrides is not None:
        write_text(path / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(list(overrides))))


def claim(folder: Path) -> Path:
    """Create ``folder``, or the first of folder-2, folder-3, ... that does not exist. Each process gets its own."""
    interrupts.before_exit(remove_empty)
    missing = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with suppress(FileExistsError):
            path.mkdir()
            _claimed.extend([path, *missing])
            return path
    raise AssertionError("the numbers have no end")


def remove_empty() -> None:
    """Remove the folders that ``claim`` created and that are still empty, as after a refused run."""
    while _claimed:
        with suppress(OSError):  # it contains files
            _claimed.pop(0).rmdir()
