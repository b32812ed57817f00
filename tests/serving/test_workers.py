"""deploy.workers: several processes of one server, which a supervisor starts, replaces and ends."""

import errno
import itertools
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path

import forked
import pytest
import urllib3
from helpers import ROOT, Server

from sagehound.errors import SagehoundError
from sagehound.serving import workers
from sagehound.serving.feedback import Feedback
from sagehound.serving.shared import SharedRateLimit


class Together(Server):
    """A server with two processes, forked from one that has imported its packages."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.errors = folder / "stdout", folder / "stderr"
        given = ["deploy=local", "deploy.port=0", "deploy.workers=2", "deploy.log=json", *overrides]
        self.started = forked.start(ROOT / "launch.py", folder, given, [self.out, self.errors])
        until(lambda: self.out.exists() and "http" in self.out.read_text())
        match = re.search(r"http://[\d.:]+", self.out.read_text())
        assert match
        self.url = match.group()

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> urllib3.BaseHTTPResponse:
        """Send a request on a new connection, which any process may accept."""
        with urllib3.PoolManager(retries=False, timeout=30) as pool:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return pool.request(method, self.url + path, body, headers=named)

    def processes(self) -> set[int]:
        """The processes that have responded."""
        lines = self.out.read_text().splitlines()[1:]
        return {json.loads(line)["process"] for line in lines}

    def both(self) -> list[int]:
        """Send requests until two processes that live have responded; returns them."""

        def seen() -> list[int]:
            assert self.request("GET", "/ping").status == 200
            return [pid for pid in sorted(self.processes()) if is_alive(pid)]

        until(lambda: len(seen()) == 2)
        return seen()

    def ended(self, signum: int = signal.SIGTERM) -> tuple[int | None, str]:
        """Send a signal to the supervisor; returns its exit code and stderr."""
        os.kill(self.started.pid or 0, signum)
        self.started.join(35)
        return self.started.exitcode, self.errors.read_text()


def until(is_true: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something.

    Raises:
        TimeoutError: it did not happen.
    """
    end = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


def refuses(server: Server) -> bool:
    """Whether new connections are refused."""
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def counted(metrics: str, route: str) -> float:
    """The number of requests of a route."""
    (found,) = re.findall(rf'sagehound_requests_total{{model="(?:run)?",route="{route}",status="200"}} (\S+)', metrics)
    return float(found)


@pytest.fixture(scope="module")
def together(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    """A server whose processes nobody ends."""
    forked.begin_test()
    started = Together(tmp_path_factory.mktemp("together"), f"model={run}")
    yield started
    pids = started.both()
    assert started.ended() == (143, "")
    assert not [pid for pid in pids if is_alive(pid)]


def test_both_processes_respond_and_their_counters_add_up(together: Together, photo: bytes) -> None:
    together.both()
    before = together.request("GET", "/metrics").data.decode()
    for _ in range(6):
        assert together.invoke(photo).status == 200
    # a request is counted after its response was sent
    until(lambda: counted(together.request("GET", "/metrics").data.decode(), "/invocations") == 6)
    first, second = (together.request("GET", "/metrics").data.decode() for _ in range(2))
    assert counted(first, "/invocations") == counted(second, "/invocations") == 6
    assert counted(first, "/ping") == counted(before, "/ping")
    assert "sagehound_requests_in_flight 0.0" in first
    assert 'sagehound_models{in_memory="true"} 1.0' in first
    assert 'sagehound_photos_total{model="run",outcome="answered"} 6.0' in first
    assert 'sagehound_photo_inference_seconds_count{model="run"} 6.0' in first
    assert re.search(r"process_resident_memory_bytes [\d.]+e\+0[89]", first), "of both processes"


def test_models_are_not_loaded_by_one_of_several_processes(together: Together, run: Path) -> None:
    body = json.dumps({"model_name": "other", "url": str(run)}).encode()
    for method, path in (("POST", "/models"), ("DELETE", f"/models/{run.name}")):
        response = together.request(method, path, body, Content_Type="application/json")
        assert response.status == 501
        assert "start it with deploy.workers=1" in json.loads(response.data)["error"]["message"]
    listed = json.loads(together.request("GET", "/models").data)["models"]
    assert [(m["modelName"], m["modelUrl"]) for m in listed] == [(run.name, str(run))]
    assert json.loads(together.request("GET", f"/models/{run.name}").data)["device"] == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_is_replaced(run: Path, tmp_path: Path, photo: bytes, sent: signal.Signals) -> None:
    server = Together(tmp_path, f"model={run}")
    killed, other = server.both()
    os.kill(killed, sent)
    until(lambda: not is_alive(killed))  # a connection that it has accepted without a request is closed
    for _ in range(4):
        assert server.invoke(photo).status == 200
    assert other in server.both()
    until(lambda: "is started" in server.errors.read_text())
    assert server.ended() == (
        143,
        f"warning: server process {killed} ended by {sent.name}; another one is started\n",
    )


def test_the_processes_end_if_the_supervisor_is_killed(run: Path, tmp_path: Path) -> None:
    server = Together(tmp_path, f"model={run}")
    pids = server.both()
    assert server.ended(signal.SIGKILL)[0] == -signal.SIGKILL
    until(lambda: not any(map(is_alive, pids)))


def test_a_request_in_progress_is_finished_at_the_end(run: Path, tmp_path: Path, photo: bytes) -> None:
    server = Together(tmp_path, f"model={run}", "deploy.rate=0.02")
    head = f"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: {len(photo)}"
    with server.connect() as client:
        client.sendall(f"{head}\r\nExpect: 100-continue\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 100 "), "it was accepted"
        # it was the one request in 50 s that the rate allows, by whichever process
        until(lambda: server.request("GET", "/models").status == 429 and len(server.processes()) == 2)
        assert '"status": 200' not in server.out.read_text()
        os.kill(server.started.pid or 0, signal.SIGINT)
        until(lambda: refuses(server))
        client.sendall(photo)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
    server.started.join(15)
    assert (server.started.exitcode, server.errors.read_text()) == (130, "sagehound: stopped by Ctrl-C\n")


@pytest.mark.parametrize("given", ["0", "-1", "two", "257", "1.5", ""])
def test_a_wrong_number_of_workers_is_refused(given: str) -> None:
    with pytest.raises(SagehoundError, match=r"deploy.workers=.*: give auto, or a number from 1 to 256"):
        workers.number(given)


def test_processes_that_die_at_once_are_given_up(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workers, "_PAUSE", 0.01)
    supervisor = workers.Supervisor(lambda ready: os._exit(9), 2, 1, lambda: None, lambda pid: None)
    with pytest.raises(
        SagehoundError, match=r"^5 server processes failed at .* ended by exit code 9: the lines above may say"
    ):
        supervisor.run()
    assert capfd.readouterr().err.count("ended by exit code 9; another one is started") == 4


def test_a_process_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workers, "_PAUSE", 0.01)
    start, calls = ForkProcess.start, itertools.count()

    def fails_once(process: ForkProcess) -> None:
        if next(calls) == 1:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        start(process)

    def serve(ready: Callable[[], None]) -> None:
        ready()
        time.sleep(60)

    monkeypatch.setattr(ForkProcess, "start", fails_once)
    supervisor = workers.Supervisor(
        serve, 2, 1, on_ready=lambda: os.kill(os.getpid(), signal.SIGTERM), on_death=lambda pid: None
    )
    assert supervisor.run() == signal.SIGTERM
    assert "no process could be started (Cannot allocate memory); another one is started" in capfd.readouterr().err


@pytest.mark.slow
def test_stopped_processes_end_in_time() -> None:
    def serve(ready: Callable[[], None]) -> None:
        ready()
        os.kill(os.getpid(), signal.SIGSTOP)

    def end() -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()

    started = time.monotonic()
    assert workers.Supervisor(serve, 1, 0.5, end, lambda pid: None).run() == signal.SIGTERM
    assert time.monotonic() - started < 10


def test_a_shared_rate_counts_each_client_by_itself() -> None:
    limit = SharedRateLimit(2)
    assert [limit.wait("10.0.0.1") for _ in range(6)] == [0, 0, 0, 0, 1, 1]
    assert limit.wait("10.0.0.2") == 0
    assert [limit.wait(f"2001:db8::{i}") for i in range(5)] == [0, 0, 0, 0, 1], "one network"
    slow = SharedRateLimit(0.1)
    assert [slow.wait("a"), slow.wait("a")] == [0, 10]


def test_feedback_of_two_processes_is_one(tmp_path: Path, photo: bytes) -> None:
    first, second = Feedback(tmp_path), Feedback(tmp_path)
    said = {"label": "a", "probability": 0.5}
    for feedback, right in zip(itertools.cycle([first, second]), ["a", "b", "b", "a", None, "b"]):
        feedback.add(photo, "m", said, right)
    lines = [json.loads(line)["right"] for line in (tmp_path / "feedback.jsonl").read_text().splitlines()]
    assert lines == ["a", "b", "a", None, "b"]
    assert [p.parent.name for p in tmp_path.rglob("*.jpeg")] == ["b"], "the last one counts"
