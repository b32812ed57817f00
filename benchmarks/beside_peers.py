"""The server beside its peers, with the same model and photos: what serving.py measures with wrk."""

import io
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from common import Row
from load import Load, classify, load
from PIL import Image
from servers import SETTINGS, Server, ours, peer

SIZES = {"small": 125_000, "large": 3_000_000}  # bytes of a photo, about
LARGE_PIXELS = 4032 * 3024  # a phone's
OURS, INT8 = "Sagehound", "Sagehound, int8"
BAR = 1.25  # at 16 clients, times the photos a second of the best peer
WARM_UP, TRIAL = 2, 4  # seconds


@dataclass(frozen=True)
class Round:
    """One measurement of one server."""

    load: Load
    processor_ms: float  # of the server, for a photo


def photos_of(folder: Path, kind: str, scratch: Path) -> list[Path]:
    """The photos that are sent: the 16 nearest to 125 KB, or the 8 largest enlarged to 12 megapixels and 3 MB."""
    files = sorted(folder.rglob("*.jpg"), key=lambda f: -f.stat().st_size)
    if not files:
        sys.exit(f"{folder} has no photos whose name ends in .jpg: give --source FOLDER")
    if kind == "small":
        return sorted(files, key=lambda f: abs(f.stat().st_size - SIZES["small"]))[:16]
    return [_enlarged(file, scratch / f"large_{i}.jpg") for i, file in enumerate(files[:8])]


def _enlarged(file: Path, target: Path) -> Path:
    """Bicubic, in the highest quality below 98 whose file is not larger than 3.2 MB."""
    with Image.open(file) as image:
        scale = (LARGE_PIXELS / (image.width * image.height)) ** 0.5
        large = image.convert("RGB").resize((round(scale * image.width), round(scale * image.height)))
    for quality in range(98, 60, -2):
        written = io.BytesIO()
        large.save(written, "JPEG", quality=quality)
        if written.tell() < 1.07 * SIZES["large"]:
            break
    target.write_bytes(written.getvalue())
    return target


@contextmanager
def all_servers(
    run: Path, int8: Path | None, model: Path, peers: list[str], python: str, photos: list[Path], seconds: float
) -> Iterator[list[Server]]:
    """Our server, and each peer in the faster of its settings; they run at the same time and are measured in turn.

    ``int8`` is a run of the same model whose network is in int8: another server of ours. ``seconds`` are those of a
    measurement; choosing a setting takes no longer ones.
    """
    with ExitStack() as stack:
        servers = [stack.enter_context(ours(run))]
        quantized = [stack.enter_context(ours(int8, name=INT8))] if int8 else []
        for name in peers:
            best = _best_setting(name, model, python, photos, seconds)
            servers.append(stack.enter_context(peer(name, best, model, python)))
        _check_answers(servers, photos)
        yield servers + quantized


def _best_setting(name: str, model: Path, python: str, photos: list[Path], seconds: float) -> tuple[int, ...]:
    """The setting with more photos a second for 16 clients, in two turns."""
    settings = SETTINGS[name][1]
    rates: dict[tuple[int, ...], float] = dict.fromkeys(settings, 0.0)
    with ExitStack() as stack:
        tried = {s: stack.enter_context(peer(name, s, model, python)) for s in settings}
        for server in tried.values():
            load(server.address, 16, min(WARM_UP, seconds), photos)
        for _ in range(2):
            for setting, server in tried.items():
                rates[setting] += load(server.address, 16, min(TRIAL, seconds), photos).rate / 2
    print(f"{name}: photos a second by setting: {rates}", file=sys.stderr)
    return max(rates, key=lambda s: rates[s])


def _check_answers(servers: list[Server], photos: list[Path]) -> None:
    """Check that all servers give each photo the same most probable class."""
    for photo in photos:
        labels = {server.name: classify(server.address, photo)["label"] for server in servers}
        if len(set(labels.values())) > 1:
            sys.exit(f"the servers classify {photo.name} differently: {labels}")


def seconds_of(kind: str, clients: int, seconds: float) -> float:
    """How long a measurement takes: with large photos, each client should have several answers."""
    return max(seconds, clients / 10) if kind == "large" else seconds


def measure_all(
    servers: list[Server], kind: str, clients: int, seconds: float, rounds: int, photos: list[Path]
) -> dict[str, list[Round]]:
    """Rounds of each server by its name, in turn."""
    found: dict[str, list[Round]] = {server.name: [] for server in servers}
    for _ in range(rounds):
        for server in servers:
            before = server.processor_time()
            result = load(server.address, clients, seconds_of(kind, clients, seconds), photos)
            sent = max(1, result.answered + sum(result.failed.values()))
            found[server.name].append(Round(result, 1000 * (server.processor_time() - before) / sent))
            server.wait_until_idle()
    return found


def table(measured: dict[tuple[str, int], dict[str, list[Round]]]) -> str:
    """Every server's medians as Markdown."""
    lines = ["| photos | clients | server | photos/s | p50, ms | p99, ms | processor, ms a photo | failed |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for (kind, clients), of_server in measured.items():
        for name, rounds in of_server.items():
            rate, p50, p99 = (_median(rounds, key) for key in ("rate", "p50", "p99"))
            processor = statistics.median(r.processor_ms for r in rounds)
            failed = "; ".join(r.load.failures for r in rounds if r.load.failed) or "none"
            lines.append(
                f"| {kind} | {clients} | {name} | {rate:.1f} | {p50:,.0f} | {p99:,.0f} | {processor:.1f} | {failed} |"
            )
    return "\n".join(lines)


def rows(measured: dict[tuple[str, int], dict[str, list[Round]]], sizes: dict[str, int]) -> Iterator[Row]:
    """The claims: photos a second beside the best peer, and with many clients p99 and failures too."""
    for (kind, clients), of_server in measured.items():
        peers = {name: rounds for name, rounds in of_server.items() if name not in (OURS, INT8)}
        what = f"{clients} client{'s' * (clients > 1)}, photos of {sizes[kind] // 1000:,} KB"
        for name in (OURS, INT8):
            if peers and name in of_server:
                yield from _beside(what + ", int8" * (name == INT8), clients, of_server[name], peers)


def _beside(what: str, clients: int, mine: list[Round], peers: dict[str, list[Round]]) -> Iterator[Row]:
    best = max(peers, key=lambda name: _median(peers[name], "rate"))
    a, b = _median(mine, "rate"), _median(peers[best], "rate")
    bar = f"{BAR:g} x" if clients == 16 else ""
    yield Row(f"{what}: photos a second, beside {best}", f"{a:.1f} /s", f"{b:.1f} /s", f"{a / b:.2f} x", bar)
    if clients >= 64:
        quick = min(peers, key=lambda name: _median(peers[name], "p99"))
        a, b = _median(mine, "p99"), _median(peers[quick], "p99")
        yield Row(f"{what}: p99, beside {quick}", f"{a:,.0f} ms", f"{b:,.0f} ms", f"{b / a:.2f} x", "> 1 x")
        failed = sum(sum(r.load.failed.values()) for r in mine)
        others = sum(sum(r.load.failed.values()) for rounds in peers.values() for r in rounds)
        yield Row(f"{what}: failed requests, beside all peers", f"{failed}", f"{others}", "", "0")


def _median(rounds: list[Round], key: str) -> float:
    values: list[float] = [getattr(r.load, key) for r in rounds]
    return statistics.median(values)
