"""Attacks on a real server: other clients are still answered, and SIGTERM ends it."""

import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import pytest
from helpers import Server
from PIL import Image

SOON = 3.0  # seconds; a quiet machine answers a small photo in 0.02 s, a stall lasts much longer


def answered_soon(server: Server, photo: bytes) -> None:
    """Check that a small photo is answered."""
    start = time.monotonic()
    assert server.invoke(photo).status == 200
    assert time.monotonic() - start < SOON


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
def test_large_photos_do_not_hold_up_small_ones(server: Server, photo: bytes) -> None:
    """16 photos of 49 megapixels, in 6 KB each, take 6 seconds and more to decode."""
    file = io.BytesIO()
    Image.new("1", (7000, 7000)).save(file, "PNG")
    large = file.getvalue()
    with ThreadPoolExecutor(16) as attackers, ThreadPoolExecutor(8) as clients:
        attack = [attackers.submit(server.invoke, large, "image/png") for _ in range(16)]
        time.sleep(0.5)
        list(clients.map(lambda _: answered_soon(server, photo), range(40)))
        assert sum(a.done() for a in attack) < 16, "the attack still runs"
        assert {a.result().status for a in attack} == {200}
    answered_soon(server, photo)
