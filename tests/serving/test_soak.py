"""Minutes of everything at once from 32 clients: no status but those expected, and no growing memory."""

import base64
import io
import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import urllib3
from helpers import Server
from PIL import Image

SECONDS = float(os.environ.get("SAGEHOUND_SOAK_SECONDS", "600"))
CLIENTS = 32


def photo(width: int, height: int, kind: str, seed: int) -> bytes:
    file = io.BytesIO()
    random.seed(seed)
    Image.effect_noise((width, height), 50 + seed).convert("RGB").save(file, kind)
    return file.getvalue()


class Client:
    """Does one thing after the other, at random, and counts the results."""

    def __init__(self, server: Server, run: Path, number: int) -> None:
        self.server, self.run, self.number = server, run, number
        self.rng = random.Random(number)
        self.seen: Counter[tuple[str, int]] = Counter()
        sizes = [(64, 48, "JPEG"), (500, 375, "JPEG"), (1600, 1200, "JPEG"), (300, 200, "PNG"), (640, 480, "WEBP")]
        self.photos = [photo(w, h, kind, number) for w, h, kind in sizes]

    def work(self, until: float) -> None:
        doing = [self.one, self.one, self.one, self.several, self.lines, self.broken, self.wrong, self.leave]
        if self.number % 8 == 0:
            doing += [self.another_model, self.large]
        while time.monotonic() < until:
            self.rng.choice(doing)()

    def ask(self, what: str, method: str, path: str, body: bytes, content_type: str) -> urllib3.BaseHTTPResponse:
        answer = self.server.request(method, path, body, Content_Type=content_type)
        self.seen[what, answer.status] += 1
        if answer.status == 503:
            time.sleep(0.05)
        return answer

    def one(self) -> None:
        answer = self.ask("one", "POST", "/invocations", self.rng.choice(self.photos), "application/x-image")
        assert answer.status == 503 or answer.json()["label"]

    def several(self) -> None:
        instances = [base64.b64encode(self.rng.choice(self.photos)).decode() for _ in range(self.rng.randrange(1, 6))]
        body = json.dumps({"instances": [*instances, "broken"]}).encode()
        answer = self.ask("several", "POST", "/invocations", body, "application/json")
        if answer.status == 200:
            assert ["error" in p for p in answer.json()["predictions"]] == [False] * len(instances) + [True]

    def lines(self) -> None:
        body = f'"{base64.b64encode(self.photos[0]).decode()}"\n'.encode() * 3
        answer = self.ask("lines", "POST", "/invocations?top_k=1", body, "application/jsonlines")
        assert answer.status == 503 or answer.data.count(b"\n") == 3

    def broken(self) -> None:
        whole = self.rng.choice(self.photos)
        self.ask("broken", "POST", "/invocations", whole[: self.rng.randrange(len(whole) // 2)], "image/jpeg")

    def wrong(self) -> None:
        self.ask("wrong", "POST", self.rng.choice(["/invocations", "/models/nobody/invoke"]), b"x", "text/plain")

    def large(self) -> None:
        self.ask("large", "POST", "/invocations", b"0" * (26 * 2**20), "image/jpeg")

    def another_model(self) -> None:
        name = f"model-{self.number}"
        body = json.dumps({"model_name": name, "url": str(self.run)}).encode()
        if self.ask("load", "POST", "/models", body, "application/json").status != 200:
            return
        self.ask("invoke", "POST", f"/models/{name}/invoke", self.photos[0], "image/jpeg")
        while self.ask("unload", "DELETE", f"/models/{name}", b"", "").status == 503:
            pass

    def leave(self) -> None:
        """Hang up in the middle of a request, or before its answer."""
        host, _, port = self.server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as client:
            body = self.photos[1]
            head = "POST /models/run/invoke HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body[: self.rng.choice([0, 100, len(body)])])


EXPECTED = {
    "one": {200},
    "several": {200},
    "lines": {200},
    "broken": {400},
    "wrong": {415, 404},
    "large": {413},
    "load": {200},
    "invoke": {200},
    "unload": {200},
}


@pytest.mark.soak
@pytest.mark.slow
def test_everything_at_once(run: Path, tmp_path: Path) -> None:
    server = Server(tmp_path, f"model={run}", "deploy.max_requests=24")
    clients = [Client(server, run, number) for number in range(CLIENTS)]
    failures: list[BaseException] = []

    def work(client: Client, until: float) -> None:
        try:
            client.work(until)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(c, time.monotonic() + SECONDS)) for c in clients]
    for thread in threads:
        thread.start()
    held = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(SECONDS / 40)
        held.append(psutil.Process(server.process.pid).memory_info().rss / 1e6)
    seen = sum((c.seen for c in clients), Counter())
    print(f"{sum(seen.values())} answers: {dict(sorted(seen.items()))}; MB: {[round(h) for h in held]}")
    assert not failures
    assert {what for what, _ in seen} == set(EXPECTED)
    for (what, status), count in seen.items():
        assert status in EXPECTED[what] | {503}, f"{what}: {count} x {status}"
    assert seen["one", 200] > 10
    assert max(held[-10:]) < 1.15 * max(held[10:20])
    assert server.request("GET", "/ping").status == 200
    assert server.stop() == (128 + signal.SIGTERM, "")
