"""Test photos sent to an endpoint, a real one: accuracy, times, tables and the plot."""

import csv
import json
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers import Command, Server, make_photos

from sagehound_launchers.sagemaker.instance_advice import cheapest


def folder_of(stdout: str, tmp_path: Path) -> Path:
    return tmp_path / stdout.strip().splitlines()[-1].removeprefix("results: ")


def test_all_test_photos_are_sent_and_what_came_back_is_written(
    launch: Command, server: Server, run: Path, run_photos: Path, tmp_path: Path
) -> None:
    done = launch("probe=local", f"endpoint={server.url}", "data=folder", f"data.root={run_photos}", "n=all")
    assert done.returncode == 0, done.stderr
    folder = folder_of(done.stdout, tmp_path)
    found = json.loads((folder / "probe.json").read_text())
    assert found["photos"] == 12
    assert found["failed"] == 0
    trained = json.loads((run / "metrics.json").read_text())["test"]
    assert (found["top1"], found["top1_interval"]) == (trained["top1"], trained["top1_interval"])
    assert f"accuracy: {found['top1']:.1%} (95 % interval " in done.stdout
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]
    assert found["photos_per_second"] > 0
    rows = {r["class"]: r for r in csv.DictReader((folder / "per_class.csv").open())}
    assert {c: (r["train"], r["test"]) for c, r in rows.items()} == dict.fromkeys(
        ["Amber", "Moss", "Slate"], ("8", "4")
    )
    assert (folder / "per_class.csv").read_text() == (run / "per_class.csv").read_text()
    with (run / "predictions.csv").open() as file:
        said = {r["file"]: r["prediction"] for r in csv.DictReader(file) if r["split"] == "test"}
    with (folder / "predictions.csv").open() as file:
        assert {r["file"]: r["prediction"] for r in csv.DictReader(file)} == said
    assert (folder / "plots/accuracy_by_class_size.png").stat().st_size > 5_000


@pytest.mark.slow
def test_some_photos_are_chosen_by_seed(launch: Command, server: Server, run_photos: Path, tmp_path: Path) -> None:
    def sent(*overrides: str) -> list[str]:
        given = ["probe=local", f"endpoint={server.url}/models/run", "data=folder", f"data.root={run_photos}", "n=5"]
        done = launch(*given, *overrides)
        assert done.returncode == 0, done.stderr
        with (folder_of(done.stdout, tmp_path) / "predictions.csv").open() as file:
            return [r["file"] for r in csv.DictReader(file)]

    first = sent("hydra.run.dir=a")
    assert len(set(first)) == 5
    assert first == sent("hydra.run.dir=b")
    assert first != sent("hydra.run.dir=c", "seed=1")


def test_photos_that_cannot_be_answered_are_counted(launch: Command, server: Server, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", train=2, valid=1, test=3)
    (photos / "test/003.Moss/000.jpg").write_bytes(b"no photo")
    (photos / "test/004.Unknown").mkdir()
    (photos / "test/001.Amber/000.jpg").rename(photos / "test/004.Unknown/000.jpg")
    done = launch("probe=local", f"endpoint={server.url}", "data=folder", f"data.root={photos}", "n=all")
    assert done.returncode == 0, done.stderr
    assert "1 photos got no answer, such as test/003.Moss/000.jpg: not an image file (status 400)" in done.stdout
    assert "1 classes, such as Unknown, were never among the five most probable" in done.stdout
    found = json.loads((folder_of(done.stdout, tmp_path) / "probe.json").read_text())
    assert (found["photos"], found["failed"]) == (9, 1)


def test_without_a_test_folder_the_photos_are_those_of_a_training_run(
    launch: Command, server: Server, tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "photos", train=8)
    done = launch("probe=local", f"endpoint={server.url}", "data=folder", f"data.root={photos / 'train'}", "n=all")
    assert done.returncode == 0, done.stderr
    assert "3 test photos" in done.stdout


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://127.0.0.1:1", "no connection"),
        ("{server}/nowhere", "status 404"),
        ("{server}/models/nobody/invoke", "no model 'nobody' is loaded; loaded: run"),
    ],
)
def test_an_endpoint_that_answers_nothing_is_given_up(
    launch: Command, server: Server, run_photos: Path, endpoint: str, message: str
) -> None:
    done = launch(
        "probe=local", f"endpoint={endpoint.format(server=server.url)}", "data=folder", f"data.root={run_photos}"
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def runtime(server: Server) -> Iterator[str]:
    """What stands between boto3 and a container on SageMaker: POST /endpoints/NAME/invocations."""

    class Runtime(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path != "/endpoints/my-endpoint/invocations":
                self.answer(400, b'{"message": "Endpoint other of account 1 not found.", "__type": "ValidationError"}')
                return
            sent = {name: self.headers[name] for name in ("Content-Type", "Accept")}
            request = urllib.request.Request(server.url + "/invocations", body, sent)
            with urllib.request.urlopen(request) as answer:
                self.answer(200, answer.read())

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Runtime) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.mark.slow
def test_an_endpoint_of_sagemaker_by_its_name(
    launch: Command, runtime: str, run_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", runtime)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    given = ["probe=sagemaker", "data=folder", f"data.root={run_photos}", "n=all"]
    done = launch(*given, "endpoint=my-endpoint")
    assert done.returncode == 2
    assert "export AWS_DEFAULT_REGION" in done.stderr
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    done = launch(*given, "endpoint=my-endpoint")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder_of(done.stdout, tmp_path) / "probe.json").read_text())
    assert (found["photos"], found["failed"], found["endpoint"]) == (12, 0, "my-endpoint")
    done = launch(*given, "endpoint=other")
    assert done.returncode == 1
    assert "Endpoint other of account 1 not found" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_cheapest_machines_carry_the_load() -> None:
    """20 photos a second on 2 cores: 7 on each vCPU at 70 %. ml.c5.4xlarge: 112 for $0.816; ml.m5.large: 14."""
    small = cheapest(20, 2, 0.5, 10, "us-east-1")
    assert small is not None
    assert (small.instance, small.count, small.dollars) == ("ml.m5.large", 1, 0.115)
    large = cheapest(20, 2, 0.5, 100, "us-east-1")
    assert large is not None
    assert (large.instance, large.count, large.dollars) == ("ml.c5.4xlarge", 1, 0.816), "as much as four ml.c5.xlarge"
    heavy = cheapest(20, 2, 100, 100, "us-east-1")
    assert heavy is not None
    assert heavy.instance == "ml.m5.12xlarge"
    assert cheapest(20, 2, 1000, 1, "us-east-1") is None


def test_a_probe_names_machines(launch: Command, server: Server, run_photos: Path, tmp_path: Path) -> None:
    given = ["probe=local", f"endpoint={server.url}", "data=folder", f"data.root={run_photos}", "n=3"]
    done = launch(*given, "probe.wanted_per_second=0.01")
    assert done.returncode == 0, done.stderr
    assert "for 0.01 photos a second: ml.m5.large x 1, $0.115 an hour (us-east-1 list price)" in done.stdout
    assert "GiB of memory" in done.stdout
