"""The server: its cost over what it computes, beside a script's server, start, memory, and a probe of 836 photos.

python benchmarks/serving.py [--photos FOLDER] [--requests 10000]
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from common import ROOT, SHARED, Row, against, median, parser, scratch, show, train

from sagehound.artifact.archive import unpack

SIZE = 125_000  # bytes of a photo
SOURCE_PROJECT = 109.9  # seconds for the 836 test photos of dogImages, on an endpoint of SageMaker, one after the other
# what decoding and computing cost without any server, by the server's own predictor
FLOOR = """
import json, sys, time
from pathlib import Path
from sagehound.inference.preprocessing import prepare
from sagehound.serving.predictor import Predictor
predictor = Predictor(Path(sys.argv[1]))
photos = [Path(p).read_bytes() for p in sys.argv[2:]]
seconds = []
for i in range(300):
    start = time.perf_counter()
    predictor([prepare(photos[i % len(photos)], predictor.card.preprocessing)])
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds))
"""


def measure(argv: list[str]) -> list[Row]:
    """The rows of the table."""
    p = parser(__doc__)
    p.add_argument("--photos", type=Path, default=SHARED / "pets40", help="a folder of photos, of which 16 are sent")
    p.add_argument("--requests", type=int, default=10_000, help="of the measurement of memory")
    p.add_argument("--sent", type=int, default=300, help="requests of one client in a round")
    args = p.parse_args(argv)
    files = sorted(args.photos.rglob("*.jpg"), key=lambda f: abs(f.stat().st_size - SIZE))[:16]
    kilobytes = sum(f.stat().st_size for f in files) / len(files) / 1000
    print(f"{len(files)} photos of {kilobytes:.0f} KB", file=sys.stderr)
    with scratch() as folder:
        run, model = folder / "run", folder / "model"
        given = [f"backbone.name={args.backbone}", f"backbone.weights={args.weights}", "trainer.max_epochs=3"]
        train(args.data, folder / "cache", run, *given)
        unpack(run / "model.tar.gz", model)
        rows = [_start(run, files[0], args.rounds)]
        floor, alone, many, eager, slowest = [], [], [], [], []
        with _served(run) as (ours, process), _eager(model) as plain:
            for _ in range(args.rounds):
                floor.append(1000 * median(_json(sys.executable, "-c", FLOOR, model, *files)))
                alone.append(_load(ours, 1, args.sent, files)["p50"])
                load = _load(ours, 16, 2 * args.sent, files)
                many.append(load["rate"])
                slowest.append(load["p99"] / load["p50"])
                eager.append(_load(plain, 16, args.sent, files)["rate"])
            rows += [
                Row("one client, p50, over decode + forward", f"{median(alone):.1f} ms", f"{median(floor):.1f} ms",
                    f"{median(alone) / median(floor):.2f} x", "<= 1.35 x"),
                against("16 clients, photos a second, beside eager torch", many, eager, "/s", 3, more=True),
                Row("the same, p99 over p50", f"{median(slowest):.2f} x", "", "", "< 3 x"),
            ]  # fmt: skip
            rows.append(_memory(ours, process, args.requests, files))
            rows.append(_probe(ours, folder / "photos", files))
    return rows


def _start(run: Path, photo: Path, rounds: int) -> Row:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        with _served(run) as (address, _):
            _load(address, 1, 1, [photo])
            seconds.append(time.perf_counter() - start)
    return Row("python launch.py deploy=local to the first answer", f"{median(seconds):.2f} s", "", "", "< 1.5 s")


def _memory(address: str, process: subprocess.Popen[bytes], requests: int, files: list[Path]) -> Row:
    held = []
    for part in (0.1, 0.5, 0.4):
        _load(address, 16, round(part * requests), files)
        held.append(psutil.Process(process.pid).memory_info().rss / 1e6)
    at = ", ".join(f"{h:.0f}" for h in held[:-1])
    claim = f"memory after {requests:,} requests (after a tenth, six tenths)"
    return Row(claim, f"{held[-1]:.0f} MB ({at})", "", "", "< 400 MB")


def _probe(address: str, folder: Path, files: list[Path]) -> Row:
    """836 test photos, as dogImages has, in ten classes; a probe is right by accident here."""
    for i in range(846):
        split, number = ("train", i) if i < 10 else ("test", i - 10)
        place = folder / split / f"class{number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[i % len(files)], place / f"{i}.jpg")
    command: list[str | Path] = [
        sys.executable,
        ROOT / "launch.py",
        "probe=local",
        f"endpoint=http://{address}",
        "n=all",
    ]
    start = time.perf_counter()
    subprocess.run(
        [*command, "data=folder", f"data.root={folder}", f"hydra.run.dir={folder / 'out'}"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    whole = time.perf_counter() - start
    asked = json.loads((folder / "out/probe.json").read_text())["seconds"]
    claim = f"probe of 836 photos, the whole command (asking alone: {asked:.1f} s)"
    return Row(
        claim, f"{whole:.1f} s", f"{SOURCE_PROJECT} s (a source project)", f"{SOURCE_PROJECT / whole:.1f} x", "10 x"
    )


@contextmanager
def _served(run: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Our server, by the command; its address and its process."""
    out = run.with_name("launch")
    command: list[str | Path] = [sys.executable, ROOT / "launch.py", "deploy=local", f"model={run}", "deploy.port=0"]
    with subprocess.Popen([*command, f"hydra.run.dir={out}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        try:
            yield line.split("http://")[1].split()[0], process
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def _eager(model: Path) -> Iterator[str]:
    """A script's server; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command: list[str | Path] = [sys.executable, ROOT / "benchmarks/eager_server.py", model, str(port)]
    with subprocess.Popen(command, env=os.environ) as process:
        try:
            for _ in range(600):
                with socket.socket() as trial:
                    if not trial.connect_ex(("127.0.0.1", port)):
                        break
                time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)


def _load(address: str, clients: int, requests: int, files: list[Path]) -> dict[str, float]:
    """p50 and p99 in ms, and photos a second; every answer must be 200."""
    found = _json(sys.executable, ROOT / "benchmarks/load.py", address, clients, requests, *files)
    if set(found["statuses"]) != {"200"}:
        sys.exit(f"{address} answered {found['statuses']}")
    ms = sorted(1000 * s for s in found["latencies"])
    return {"p50": ms[len(ms) // 2], "p99": ms[int(0.99 * len(ms))], "rate": len(ms) / found["seconds"]}


def _json(*command: object) -> Any:  # noqa: ANN401 - what the script prints
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


if __name__ == "__main__":
    show(measure(sys.argv[1:]))
