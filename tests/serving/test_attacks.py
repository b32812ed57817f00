"""Attacks on a real server: other clients are still answered, and SIGTERM ends it."""

import io
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import Server
from PIL import Image

SOON = 3.0  # seconds; a quiet machine answers a small photo in 0.02 s, a stall lasts much longer


def answered_soon(server: Server, photo: bytes) -> None:
    """Check that a small photo is answered."""
    start = time.monotonic()
    assert server.invoke(photo).status == 200
    assert time.monotonic() - start < SOON


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
