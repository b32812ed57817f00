"""Attacks on a real server: other clients are still answered, and SIGTERM ends it."""

import base64
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import urllib3
from helpers import ROOT, Server
from onnx_helpers import endless, looping, wide
from PIL import Image

SOON = 3.0  # seconds; a quiet machine answers a small photo in 0.02 s, a stall lasts much longer


def answered_soon(server: Server, photo: bytes) -> None:
    """Check that a small photo is answered."""
    start = time.monotonic()
    assert server.invoke(photo).status == 200
    assert time.monotonic() - start < SOON


def large_photo() -> bytes:
    """49 megapixels in 6 KB."""
    file = io.BytesIO()
    Image.new("1", (7000, 7000)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def dripping(server: Server, bodies: int, sent: bytes, path: str = "/invocations") -> Iterator[None]:
    """Requests whose bodies come byte by byte, after ``sent``."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 25000000\r\n\r\n"
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(bodies)]
        for client in clients:
            client.sendall(head.encode() + sent)
        time.sleep(0.3)
        for client in clients:
            with suppress(OSError):  # it was refused
                client.sendall(b"x")
        yield


def test_bodies_that_do_not_end_take_no_slot(server: Server, photo: bytes) -> None:
    with dripping(server, 200, b"x"):
        answered_soon(server, photo)
    answered_soon(server, photo)


def test_large_bodies_that_do_not_end_make_room(server: Server, photo: bytes) -> None:
    """They hold 252 of the 256 MiB that all bodies may have."""
    with dripping(server, 12, b"x" * 21 * 2**20):
        answered_soon(server, photo + bytes(6 * 2**20))
    answered_soon(server, photo)


@pytest.mark.slow
def test_large_bodies_wait_for_memory(server: Server, photo: bytes) -> None:
    """40 bodies of 15 MB have twice the memory that all bodies may have."""
    body = photo + bytes(15_000_000)
    with ThreadPoolExecutor(40) as clients:
        assert {answer.status for answer in clients.map(server.invoke, [body] * 40)} == {200}
    answered_soon(server, photo)


@pytest.mark.slow
def test_large_photos_do_not_hold_up_small_ones(server: Server, photo: bytes) -> None:
    """16 photos of 49 megapixels, in 6 KB each, take 6 seconds and more to decode."""
    large = large_photo()
    with ThreadPoolExecutor(16) as attackers, ThreadPoolExecutor(8) as clients:
        attack = [attackers.submit(server.invoke, large, "image/png") for _ in range(16)]
        time.sleep(0.5)
        list(clients.map(lambda _: answered_soon(server, photo), range(40)))
        assert sum(a.done() for a in attack) < 16, "the attack still runs"
        assert {a.result().status for a in attack} == {200}
    answered_soon(server, photo)


@pytest.mark.slow
def test_large_photos_leave_slots_for_others(run: Path, tmp_path: Path, photo: bytes) -> None:
    server = Server(tmp_path, f"model={run}", "deploy.max_requests=4")
    with ThreadPoolExecutor(4) as attackers:
        attack = [attackers.submit(server.invoke, large_photo(), "image/png") for _ in range(4)]
        time.sleep(0.3)
        answered_soon(server, photo)
        assert sorted(a.result().status for a in attack) == [200, 200, 503, 503]
    answered_soon(server, photo)
    assert server.stop() == (143, "")


def code(answer: urllib3.BaseHTTPResponse) -> str:
    """The code of an error."""
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "1"
    return str(answer.json()["error"]["code"])


@pytest.mark.slow
@pytest.mark.parametrize("hung", [looping, endless])
def test_a_model_that_does_not_return_is_out_of_service(
    hung: Callable[[Path], Path], run: Path, tmp_path: Path, photo: bytes
) -> None:
    """One whose loop ONNX Runtime can stop, and one that it cannot stop."""
    server = Server(tmp_path, f"model=[{run},{hung(tmp_path / 'hung')}]", "deploy.timeout=2", "deploy.max_requests=8")

    several = json.dumps({"instances": [base64.b64encode(photo).decode()] * 3}).encode()

    def invoke(model: str, body: bytes = photo, content_type: str = "image/jpeg") -> urllib3.BaseHTTPResponse:
        return server.request("POST", f"/models/{model}/invoke", body, Content_Type=content_type)

    with ThreadPoolExecutor(8) as clients:
        attack = [clients.submit(invoke, "hung", several, "application/json")]
        attack += [clients.submit(invoke, "hung") for _ in range(7)]
        time.sleep(0.5)
        assert invoke("run").status == 200, "it has slots"
        assert {code(a.result()) for a in attack} <= {"timed_out", "model_hung", "busy"}
    time.sleep(1)  # the server looks after every half second
    start = time.monotonic()
    assert code(invoke("hung")) == "model_hung"
    assert time.monotonic() - start < 1
    assert [m["inMemory"] for m in server.request("GET", "/models").json()["models"]] == [False, True]
    assert server.request("GET", "/ping").status == 200
    assert invoke("run").status == 200
    start = time.monotonic()
    assert server.stop() == (143, "")
    assert time.monotonic() - start < 10


@pytest.mark.slow
def test_the_only_model_that_does_not_return_fails_ping_until_it_is_back(tmp_path: Path, photo: bytes) -> None:
    server = Server(tmp_path, f"model={looping(tmp_path / 'hung')}", "deploy.timeout=1")
    assert server.request("GET", "/ping").status == 200
    server.invoke(photo)
    time.sleep(0.5)
    ping = server.request("GET", "/ping")
    assert (ping.status, ping.json()["error"]["code"]) == (500, "model_hung")
    until = time.monotonic() + 60
    while server.request("GET", "/ping").status == 500:
        assert time.monotonic() < until, "it is loaded again after ten seconds, which works: that photo is black"
        time.sleep(0.2)
    assert server.stop() == (143, "")


@pytest.mark.slow
def test_a_model_that_does_not_load_is_given_up(run: Path, tmp_path: Path, photo: bytes) -> None:
    hung = looping(tmp_path / "hung", when_empty=True)
    server = Server(tmp_path, f"model={run}", "deploy.timeout=1")
    body = json.dumps({"model_name": "hung", "url": str(hung)}).encode()
    with ThreadPoolExecutor(1) as other:
        attack = other.submit(server.request, "POST", "/models", body, Content_Type="application/json")
        time.sleep(0.3)
        answered_soon(server, photo)
        assert code(attack.result()) == "model_hung"
    assert server.request("GET", "/ping").status == 200
    answered_soon(server, photo)
    assert server.stop() == (143, "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux shows what a process has loaded")
def test_sigterm_ends_a_server_whose_model_does_not_load(tmp_path: Path) -> None:
    hung = looping(tmp_path / "hung", when_empty=True)
    command = [sys.executable, str(ROOT / "launch.py"), "deploy=local", "deploy.port=0", f"model={hung}"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while "onnxruntime_pybind11_state" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.05)
    time.sleep(1)  # it loads
    process.terminate()
    errors = process.communicate(timeout=20)[1]
    assert (process.returncode, errors) == (143, b"")


@pytest.mark.slow
def test_models_in_memory_stay_below_their_limit(run: Path, tmp_path: Path, photo: bytes) -> None:
    """Requests for four models at once, where only one fits, and photos that are refused."""
    model = wide(tmp_path / "wide", megabytes=40)
    server = Server(tmp_path, f"model={run}", "deploy.model_gb=0.1")
    process = psutil.Process(server.process.pid)
    names = [f"model-{i}" for i in range(4)]
    for name in names:
        body = json.dumps({"model_name": name, "url": str(model)}).encode()
        assert server.request("POST", "/models", body, Content_Type="application/json").status == 200
    server.invoke(photo)  # of run: the others are evicted
    before = process.memory_info().rss

    def invoke(i: int) -> None:
        content = b"no photo" if i % 3 == 0 else photo
        answer = server.request("POST", f"/models/{names[i % 4]}/invoke", content, Content_Type="image/jpeg")
        assert answer.status == (400 if i % 3 == 0 else 200)

    with ThreadPoolExecutor(8) as clients:
        attack = [clients.submit(invoke, i) for i in range(48)]
        peak = 0
        while not all(a.done() for a in attack):
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.005)
    assert [a.exception() for a in attack] == [None] * 48
    assert (peak - before) / 1e6 < 100
    answered_soon(server, photo)
    assert sum(m["inMemory"] for m in server.request("GET", "/models").json()["models"]) == 1
    assert server.stop() == (143, "")


SHORT_STOP = """
import sys
from sagehound.serving.request_handler import Limits
from sagehound.serving.server import Address, serve
serve({"hung": sys.argv[1]}, Address("127.0.0.1", 0), Limits(stop_seconds=1))
"""


@pytest.mark.slow
def test_sigterm_refuses_what_does_not_end_in_time(tmp_path: Path, photo: bytes) -> None:
    command = [sys.executable, "-c", SHORT_STOP, str(looping(tmp_path / "hung"))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().split(" at ")[1].split()[0]
    with ThreadPoolExecutor(1) as other:
        headers = {"Content-Type": "image/jpeg"}
        attack = other.submit(urllib3.request, "POST", f"{url}/invocations", body=photo, headers=headers, retries=False)
        time.sleep(0.5)
        process.terminate()
        errors = process.communicate(timeout=20)[1]
        assert (process.returncode, errors) == (143, "")
        assert code(attack.result()) == "timed_out"
        assert "the server is stopping" in attack.result().json()["error"]["message"]
