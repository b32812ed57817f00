"""Sends test photos to an endpoint and measures accuracy, latency and throughput."""

import random
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sagehound.config import Train
from sagehound.data.folders import SPLITS, Photo, scan
from sagehound.data.photos import fetch, find_photos
from sagehound.errors import SagehoundError
from sagehound.evaluation import plots
from sagehound.evaluation.tables import ClassScore, describe_interval, wilson, write_per_class
from sagehound.serving.access import own_token
from sagehound.storage.atomic import write_csv, write_json
from sagehound.system import console
from sagehound.system.machine import cores
from sagehound_launchers import endpoint_client
from sagehound_launchers.config import Launch
from sagehound_launchers.endpoint_client import Ask, NoPrediction

_GIVE_UP_AFTER = 10  # the probe ends if none of the first photos succeeds


@dataclass(frozen=True)
class Reply:
    """The response to one photo."""

    photo: Photo
    top: list[str]  # the most probable classes; empty after an error
    seconds: float  # until the response
    error: str  # the error

    @property
    def right(self) -> bool:
        """Whether the most probable class is the photo's label."""
        return self.top[:1] == [self.photo.label]


def probe(cfg: Launch, folder: Path, *, is_sagemaker: bool, clients: int, timeout: float) -> dict[str, Any]:
    """Send ``n`` test photos to ``endpoint`` and write probe.json, predictions.csv, per_class.csv and a plot.

    Args:
        cfg: with ``endpoint`` and ``n``.
        folder: for the files.
        is_sagemaker: whether ``endpoint`` is a name on SageMaker; otherwise it is an address.
        clients: that send at a time.
        timeout: seconds for a response.

    Returns:
        the content of probe.json: shares between 0 and 1, milliseconds, photos per second.

    Raises:
        InputError: there are no photos.
        SagehoundError: no photo got a prediction.
    """
    photos, root = test_photos(cfg)
    chosen = [p for p in photos if p.split == "test"]
    if cfg.n != "all" and int(cfg.n) < len(chosen):
        chosen = sorted(random.Random(cfg.seed).sample(chosen, int(cfg.n)), key=lambda p: p.file)
    endpoint = str(cfg.endpoint)
    ask = endpoint_client.connect(endpoint, cfg.aws if is_sagemaker else None, clients=clients, timeout=timeout)
    console.info(f"probing {endpoint} with {len(chosen):,} test photos, {clients} at a time")
    start = time.perf_counter()
    replies: list[Reply] = []
    with ThreadPoolExecutor(clients) as pool:
        coming = pool.map(lambda p: _send(ask, root, p), chosen)
        for reply in console.track(coming, "Probing with photos", len(chosen)):
            replies.append(reply)
            if len(replies) == min(_GIVE_UP_AFTER, len(chosen)) and all(r.error for r in replies):
                pool.shutdown(cancel_futures=True)
                raise SagehoundError(f"endpoint={endpoint}: 0 of {len(replies)} photos got a prediction: {reply.error}")
    seconds = time.perf_counter() - start
    summary = _summary(replies, seconds) | {"endpoint": endpoint, "clients": clients}
    _write(folder, summary, replies, photos)
    _tell(summary, replies, folder)
    return summary


def advise(endpoint: str, rate: float, wanted: float, region: str | None) -> None:
    """Name the cheapest machines for a load, from the rate of a server on this machine.

    Args:
        endpoint: the server's address.
        rate: photos a second that were measured.
        wanted: photos a second.
        region: for the prices; None: us-east-1.
    """
    from sagehound_launchers.sagemaker.instance_advice import cheapest

    used = memory_of(endpoint)
    best = cheapest(rate, cores(), used or 0.0, wanted, region or "us-east-1")
    if best is None:
        console.warn(f"no listed machine has the {used:.1f} GiB of memory that the server uses")
        return
    memory = f", {used:.1f} GiB of memory" if used else ""
    console.info(
        f"for {wanted:g} photos a second: {best}; an estimate from {rate:g} photos a second on {cores()} cores here"
        f"{memory}: a vCPU there is taken to be as fast, and 70 % of it to be used; test it with probe=sagemaker"
    )


def memory_of(endpoint: str) -> float | None:
    """GiB that the server's process uses, by its /metrics; None if it does not say."""
    import urllib3

    parts = urllib3.util.parse_url(endpoint)
    try:
        url = f"{parts.scheme}://{parts.netloc}/metrics"
        response = urllib3.request("GET", url, headers=own_token(), timeout=5, retries=False)
    except urllib3.exceptions.HTTPError:
        return None
    line = next((x for x in response.data.decode().splitlines() if x.startswith("process_resident_memory_bytes ")), "")
    return float(line.split()[1]) / 2**30 if line else None


def test_photos(cfg: Train) -> tuple[list[Photo], Path]:
    """All photos of the set with their splits, and their folder.

    Without a test folder, the test photos are those that a training run takes from train.
    """
    cache_dir = Path(cfg.cache.dir).expanduser()
    root = fetch(cfg.data, cache_dir)
    photos = [] if cfg.data.table or cfg.data.source else scan(root).photos
    if not any(p.split == "test" for p in photos):
        photos = find_photos(cfg.data, cache_dir).photos
    return photos, root


def _send(ask: Ask, root: Path, photo: Photo) -> Reply:
    path = root / photo.file
    start = time.perf_counter()
    try:
        content = path.read_bytes()
        start = time.perf_counter()
        response = ask(content, endpoint_client.content_type(path.name))
        top = [str(best["label"]) for best in response["top"]]
        return Reply(photo, top, time.perf_counter() - start, "")
    except OSError as error:
        return Reply(photo, [], time.perf_counter() - start, f"cannot be read: {error.strerror}")
    except NoPrediction as error:
        return Reply(photo, [], time.perf_counter() - start, str(error))


def _summary(replies: list[Reply], seconds: float) -> dict[str, Any]:
    answered = [r for r in replies if not r.error]
    right = sum(r.right for r in answered)
    ms = sorted(1000 * r.seconds for r in answered)
    return {
        "photos": len(replies),
        "failed": len(replies) - len(answered),
        "top1": round(right / len(answered), 6),
        "top1_interval": [round(share, 6) for share in wilson(right, len(answered))],
        "top5": round(sum(r.photo.label in r.top for r in answered) / len(answered), 6),
        **{f"p{share}_ms": round(ms[min(int(len(ms) * share / 100), len(ms) - 1)], 2) for share in (50, 95, 99)},
        "mean_ms": round(statistics.mean(ms), 2),
        "photos_per_second": round(len(answered) / seconds, 2),
        "seconds": round(seconds, 3),
    }


def _write(folder: Path, summary: dict[str, Any], replies: list[Reply], photos: list[Photo]) -> None:
    write_json(folder / "probe.json", summary)
    columns = ["file", "label", "prediction", "top5", "milliseconds", "error"]
    rows = [
        [r.photo.file, r.photo.label, (r.top or [""])[0], ";".join(r.top), f"{1000 * r.seconds:.1f}", r.error]
        for r in replies
    ]
    write_csv(folder / "predictions.csv", columns, rows)
    scores = by_class(replies, photos)
    write_per_class(folder / "per_class.csv", scores)
    plots.save(plots.accuracy_by_class_size(scores), folder / "plots" / "accuracy_by_class_size.png")


def by_class(replies: list[Reply], photos: list[Photo]) -> list[ClassScore]:
    """The scores of every class, from the photos with a prediction."""
    counts = {split: Counter(p.label for p in photos if p.split == split) for split in SPLITS}
    counts["test"] = Counter(r.photo.label for r in replies if not r.error)
    right = Counter(r.photo.label for r in replies if r.right)
    predicted = Counter(r.top[0] for r in replies if r.top)
    names = sorted({p.label for p in photos})
    return [ClassScore(c, {s: counts[s][c] for s in SPLITS}, right[c], predicted[c]) for c in names]


def _tell(summary: dict[str, Any], replies: list[Reply], folder: Path) -> None:
    if summary["failed"]:
        first = next(r for r in replies if r.error)
        console.warn(f"{summary['failed']} photos got no answer, such as {first.photo.file}: {first.error}")
    named = {label for r in replies for label in r.top}
    strange = sorted({r.photo.label for r in replies if not r.error} - named)
    if strange:
        console.warn(
            f"{len(strange)} classes, such as {strange[0]}, were never among the five most probable; the model may not "
            "know them"
        )
    columns = ["photos", "top-1", "top-5", "p50 ms", "p95 ms", "p99 ms", "photos/s", "seconds"]
    shares = [f"{summary[k]:.1%}" for k in ("top1", "top5")]
    times = [f"{summary[k]:.1f}" for k in ("p50_ms", "p95_ms", "p99_ms", "photos_per_second", "seconds")]
    console.table(f"Endpoint: {summary['endpoint']}", columns, [[str(summary["photos"]), *shares, *times]])
    console.info(f"accuracy: {summary['top1']:.1%} (95 % interval {describe_interval(summary['top1_interval'])})")
    console.info(f"results: {folder}")
