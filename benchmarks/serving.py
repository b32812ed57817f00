"""The server beside its peers (FastAPI with ONNX Runtime, LitServe), and its start, memory and own cost.

python benchmarks/serving.py --litserve LIT/bin/python [--clients 16] [--photos small] [--parts peers] [--run RUN]

It needs wrk and an environment with LitServe, which is not one of Sagehound's requirements:
    apt-get install wrk
    python -m venv LIT && LIT/bin/pip install litserve onnxruntime pillow    # the versions of requirements.lock
All of it takes about twelve minutes on two cores. RUN is a run's folder; without it, a head is trained first.
--int8 adds a server of ours with an int8 network of the same model. The peers keep fp32; its answers are not compared.
"""

import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from beside_peers import SIZES, all_servers, measure_all, photos_of, rows, table
from common import ROOT, SHARED, Row, median, parser, scratch, show, train
from load import check_wrk, classify, load
from servers import SETTINGS, Server, check_litserve, ours

from sagehound.artifact.archive import unpack

SOURCE_PROJECT = 109.9  # seconds for the 836 test photos of dogImages, on an endpoint of SageMaker, one after the other
PARTS = ("start", "peers", "floor", "memory", "probe")
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
    p.add_argument("--source", type=Path, default=SHARED / "pets40", help="a folder of the photos that are sent")
    p.add_argument("--photos", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    p.add_argument("--clients", nargs="+", type=int, default=[1, 16, 64, 256])
    p.add_argument("--seconds", type=float, default=6, help="of a round; large photos have a third of the rounds")
    p.add_argument("--peers", nargs="*", choices=tuple(SETTINGS), default=list(SETTINGS))
    p.add_argument("--litserve", default=sys.executable, help="the Python that has LitServe")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    p.add_argument("--requests", type=int, default=10_000, help="of the measurement of memory")
    p.add_argument("--run", type=Path, help="a run's folder")
    p.add_argument("--int8", type=Path, help="of a run of the same model whose artifact is in int8: another server")
    args = p.parse_args(argv)
    check_wrk()
    if "peers" in args.parts and "LitServe" in args.peers:
        check_litserve(args.litserve)
    with scratch() as folder:
        run, model = args.run or folder / "run", folder / "model"
        if not args.run:
            given = [f"backbone.name={args.backbone}", f"backbone.weights={args.weights}", "trainer.max_epochs=3"]
            train(args.data, folder / "cache", run, *given)
        unpack(run / "model.tar.gz", model)
        sent = {kind: photos_of(args.source, kind, folder) for kind in args.photos}
        files = sent.get("small") or photos_of(args.source, "small", folder)
        found = [_start(run, files[0], args.rounds)] if "start" in args.parts else []
        if "peers" in args.parts:
            found += _beside_peers(run, model, sent, args)
        with ours(run) as server:
            found += [_floor(server, model, files, args.rounds, min(4, args.seconds))] if "floor" in args.parts else []
            found += [_memory(server, args.requests, files)] if "memory" in args.parts else []
            found += [_probe(server.address, folder / "photos", files)] if "probe" in args.parts else []
    return found


def _beside_peers(run: Path, model: Path, sent: dict[str, list[Path]], args: Any) -> list[Row]:  # noqa: ANN401
    measured = {}
    sizes = {kind: sum(f.stat().st_size for f in files) // len(files) for kind, files in sent.items()}
    with ExitStack() as stack:
        first = next(iter(sent.values()))
        servers = stack.enter_context(
            all_servers(run, args.int8, model, args.peers, args.litserve, first, args.seconds)
        )
        for kind, files in sent.items():
            rounds = args.rounds if kind == "small" else max(1, args.rounds // 3)
            for clients in args.clients:
                found = measure_all(servers, kind, clients, args.seconds, rounds, files)
                measured[kind, clients] = found
    print(f"\n{table(measured)}")
    return list(rows(measured, sizes))


def _start(run: Path, photo: Path, rounds: int) -> Row:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        with ours(run) as server:
            classify(server.address, photo)
            seconds.append(time.perf_counter() - start)
    return Row("python launch.py deploy=local to the first answer", f"{median(seconds):.2f} s", "", "", "< 1.5 s")


def _floor(server: Server, model: Path, files: list[Path], rounds: int, seconds: float) -> Row:
    """One client beside the same predictor without a server."""
    floor, alone = [], []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", FLOOR, model, *files], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        floor.append(1000 * median(json.loads(done.stdout)))
        alone.append(load(server.address, 1, seconds, files).p50)
    ratio = f"{median(alone) / median(floor):.2f} x"
    return Row(
        "one client, p50, over decode + forward",
        f"{median(alone):.1f} ms",
        f"{median(floor):.1f} ms",
        ratio,
        "<= 1.35 x",
    )


def _memory(server: Server, requests: int, files: list[Path]) -> Row:
    held, sent = [], 0
    for part in (0.1, 0.6, 1.0):
        while sent < part * requests:
            sent += load(server.address, 16, max(1, min(10, requests / 1000)), files).answered
        held.append(server.process.memory_info().rss / 1e6)
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
    command = [sys.executable, str(ROOT / "launch.py"), "probe=local", f"endpoint=http://{address}", "n=all"]
    start = time.perf_counter()
    subprocess.run(
        [*command, "data=folder", f"data.root={folder}", f"hydra.run.dir={folder / 'out'}"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    whole = time.perf_counter() - start
    asked = json.loads((folder / "out/probe.json").read_text())["seconds"]
    claim = f"probe of 836 photos, the whole command (requests alone: {asked:.1f} s)"
    beside = f"{SOURCE_PROJECT} s (a source project)"
    return Row(claim, f"{whole:.1f} s", beside, f"{SOURCE_PROJECT / whole:.1f} x", "10 x")


if __name__ == "__main__":
    show(measure(sys.argv[1:]))
