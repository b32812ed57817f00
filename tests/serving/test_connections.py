"""Connections of clients that are slow, silent, many or odd: attacks on real processes."""

import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from helpers import Server

_GET = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n"


def is_open(client: socket.socket) -> bool:
    """Whether the server has kept a connection."""
    client.settimeout(0.05)
    try:
        return client.recv(1000) != b""
    except TimeoutError:
        return True
    except OSError:
        return False
    finally:
        client.settimeout(30)


def test_head_is_answered_as_get_without_a_body(server: Server) -> None:
    for path in ("/", "/ping", "/models", "/metrics", "/docs", "/page/page.js"):
        head, get = server.request("HEAD", path), server.request("GET", path)
        assert (head.status, head.data, head.headers["Content-Type"]) == (200, b"", get.headers["Content-Type"]), path
    assert server.request("HEAD", "/nowhere").status == 404
    assert server.request("HEAD", "/invocations").status == 405


def post(photo: bytes, more: bytes = b"") -> bytes:
    """A request with a photo."""
    head = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n" + more
    return head + f"Content-Length: {len(photo)}\r\n\r\n".encode() + photo


def test_a_client_that_has_closed_its_side_is_answered(server: Server, photo: bytes) -> None:
    with server.connect() as client:
        client.sendall(post(photo))
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_the_body_of_a_client_that_offers_http_2_is_read(server: Server, photo: bytes) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
    with server.connect() as client:
        client.sendall(post(photo, offer))  # as Java's HttpClient sends every first request
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
def test_an_idle_connection_ends_after_keep_alive(run: Path, tmp_path: Path, photo: bytes) -> None:
    server = Server(tmp_path, f"model={run}", "deploy.keep_alive=1")
    with server.connect() as client:
        for _ in range(2):
            client.sendall(post(photo))
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.4)
            assert is_open(client)
        time.sleep(1)
        assert not is_open(client)
    assert server.stop() == (143, "")


@pytest.mark.slow
def test_a_head_that_does_not_end_is_given_up_after_20_seconds(server: Server, photo: bytes) -> None:
    with ExitStack() as stack:
        silent, begun, drip, second = (stack.enter_context(server.connect()) for _ in range(4))
        begun.sendall(_GET)
        drip.sendall(_GET + b"X-Slow: ")
        second.sendall(_GET + b"\r\n")
        assert second.recv(1000).startswith(b"HTTP/1.1 200 ")
        second.sendall(_GET)
        start = time.monotonic()
        while time.monotonic() < start + 17:
            time.sleep(1)
            drip.sendall(b"x")
        assert all(is_open(client) for client in (silent, begun, drip, second))
        assert server.invoke(photo).status == 200
        with suppress(OSError):
            while time.monotonic() < start + 22:
                time.sleep(0.5)
                drip.sendall(b"x")
        time.sleep(1)  # sendall fails as soon as one is closed
        assert not any(is_open(client) for client in (silent, begun, drip, second))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of open files")
def test_many_silent_connections_lock_nobody_out(run: Path, tmp_path: Path, photo: bytes) -> None:
    server = Server(tmp_path, f"model={run}", files=256)
    with ExitStack() as stack:
        body = stack.enter_context(server.connect())
        body.sendall(post(photo)[:-1])
        silent = [stack.enter_context(server.connect()) for _ in range(300)]
        assert server.invoke(photo).status == 200
        time.sleep(0.2)
        kept = [is_open(client) for client in silent]
        assert 100 <= sum(kept) <= 128, "as many as there are files for"
        assert kept == sorted(kept), "the oldest made room"
        assert is_open(body), "a request that was begun makes room last"
        body.sendall(photo[-1:])
        assert body.recv(1000).startswith(b"HTTP/1.1 200 ")
    stopped, errors = server.stop()
    assert stopped == 143
    assert len(errors.splitlines()) == 1
    assert "128 connections" in errors


@pytest.mark.slow
def test_the_files_of_a_killed_server_are_removed_at_the_next_start(run: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    (scratch / "sagehound-model-new").mkdir()  # another process is just making it

    def folders() -> list[Path]:
        return [f for f in scratch.glob("sagehound-model-*") if f.name != "sagehound-model-new"]

    killed = Server(tmp_path, f"model={run}", TMPDIR=str(scratch))
    (left,) = folders()
    assert (left / "model/model.onnx").is_file()
    killed.process.kill()
    killed.process.communicate()
    first = Server(tmp_path, f"model={run}", TMPDIR=str(scratch))
    assert len(folders()) == 1
    assert left not in folders()
    second = Server(tmp_path, f"model={run}", TMPDIR=str(scratch))
    assert len(folders()) == 2, "those of a server that runs are kept"
    assert [server.stop() for server in (first, second)] == [(143, "")] * 2
    assert not folders()
    assert (scratch / "sagehound-model-new").is_dir()
