"""`monitor=local|sagemaker`: whether photos are still like those that the model was trained for."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from sagehound.config import key
from sagehound.errors import InputError
from sagehound.system import console
from sagehound_launchers.config.stage import Stage

if TYPE_CHECKING:
    from sagehound_launchers.config import Launch

S3 = "s3://"


@dataclass
class Monitor:
    """Photos, data.root or captured requests, compared with the model's baseline."""

    name: str = key("where they are compared", MISSING, choices=("local", "sagemaker"))
    captured: str | None = key("captured requests, a folder or s3://BUCKET/PREFIX; null: photos in data.root", None)
    window: int = key("different photos that are compared: the newest captured, or random ones of data.root", 200,
                      at_least=2, at_most=2000)  # fmt: skip
    alpha: float = key("probability of a false alarm, of all tests together", 0.01, at_least=0.001, at_most=0.5)
    baseline: str | None = key("a folder of photos to compare with; null: the baseline in model.tar.gz", None)
    fail: bool = key("exit with code 3 if the photos have changed", False)

    def conflicts(self, cfg: "Launch") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if len(cfg.models) != 1:
            yield f"monitor takes one model, not {len(cfg.models)}: give model=RUN"
        if self.name == "sagemaker" and not (self.captured or "").startswith(S3):
            yield "monitor=sagemaker reads captured requests in S3: give monitor.captured=s3://BUCKET/PREFIX"
        if self.name == "sagemaker" and self.baseline:
            yield "monitor.baseline is a folder of this machine: drop it, or choose monitor=local"


def monitor(cfg: "Launch", own: Monitor, models: Sequence[str], folder: Path) -> None:
    """Compare the photos, and write the result into the run's folder.

    Raises:
        InputError: the photos or the model cannot be read; or they have changed, with monitor.fail=true.
        SagehoundError: the job on SageMaker failed.
    """
    changes = (_on_sagemaker if own.name == "sagemaker" else _here)(cfg, own, models[0], folder)
    if changes and own.fail:
        raise InputError(f"the photos of {own.captured or cfg.data.root} have changed: {changes[0]}")


def _on_sagemaker(cfg: "Launch", own: Monitor, model: str, folder: Path) -> list[str]:
    """Compare in a processing job, which prints what has changed; returns it."""
    from sagehound_launchers.sagemaker.monitoring_job import run

    arguments = [f"monitor.window={own.window}", f"monitor.alpha={own.alpha}", f"seed={cfg.seed}"]
    return list(run(cfg, model, str(own.captured), arguments, folder).get("changes", []))


def _here(cfg: "Launch", own: Monitor, model: str, folder: Path) -> list[str]:
    """Compare on this machine; prints what has changed, and returns it."""
    from sagehound.monitoring.photo_check import PAGE, check_photos
    from sagehound.monitoring.photo_sources import of_captures, of_folder

    source = own.captured or str(cfg.data.root)
    baseline = Path(own.baseline).expanduser() if own.baseline else None
    with _local(cfg, own) as (captured, names):
        photos = of_captures(captured, names) if captured else of_folder(Path(source).expanduser(), cfg.seed)
        check = check_photos(model, photos, most=own.window, alpha=own.alpha, seed=cfg.seed, baseline=baseline)
    check.write(folder)
    if check.window.unreadable:
        console.warn(f"{len(check.window.unreadable):,} photos could not be read; monitor.csv says why")
    if check.too_few:
        console.warn(check.too_few)
    for change in check.changes:
        console.warn(change)
    count, known = len(check.window.photos), len(check.baseline.sample)
    found = f"{len(check.changes)} of {len(check.comparisons)} properties have changed" if check.changes else "no drift"
    console.info(f"{found}: {count:,} photos of {source} against {known:,} of the baseline: {folder / PAGE}")
    return check.changes


@contextmanager
def _local(cfg: "Launch", own: Monitor) -> Iterator[tuple[Path | None, dict[str, str]]]:
    """The folder of the captured requests, and other names of its files; None without any.

    Those in S3 are fetched into a temporary folder.
    """
    if not own.captured or not own.captured.startswith(S3):
        yield Path(own.captured).expanduser() if own.captured else None, {}
        return
    from sagehound_launchers.sagemaker.account import open_session
    from sagehound_launchers.sagemaker.captured_requests import fetch

    with tempfile.TemporaryDirectory(prefix="sagehound-") as folder:
        yield Path(folder), fetch(open_session(cfg.aws), own.captured, Path(folder), own.window)


STAGE = Stage(
    "monitor", Monitor, 30, monitor, needs_model=True,
    extra={"sagemaker": ("sagemaker", "boto3")}, remote=frozenset({"sagemaker"}),
)  # fmt: skip
