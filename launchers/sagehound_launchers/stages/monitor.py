"""`monitor=local`: whether photos are still like those that the model was trained for."""

from collections.abc import Iterator, Sequence
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


@dataclass
class Monitor:
    """Photos, data.root or captured requests, compared with the model's baseline."""

    name: str = key("where they are compared", MISSING, choices=("local",))
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


def monitor(cfg: "Launch", own: Monitor, models: Sequence[str], folder: Path) -> None:
    """Compare the photos, and write the result into the run's folder.

    Raises:
        InputError: the photos or the model cannot be read; or they have changed, with monitor.fail=true.
    """
    from sagehound.monitoring.photo_check import PAGE, check_photos
    from sagehound.monitoring.photo_sources import of_captures, of_folder

    source = own.captured or str(cfg.data.root)
    path = Path(source).expanduser()
    photos = of_captures(path) if own.captured else of_folder(path, cfg.seed)
    baseline = Path(own.baseline).expanduser() if own.baseline else None
    check = check_photos(models[0], photos, most=own.window, alpha=own.alpha, seed=cfg.seed, baseline=baseline)
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
    if check.changes and own.fail:
        raise InputError(f"the photos of {source} have changed: {check.changes[0]}")


STAGE = Stage("monitor", Monitor, 30, monitor, needs_model=True)
