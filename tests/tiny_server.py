"""What the image of a tiny model runs: it answers with what it was asked and what it knows; settings are variables."""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ML = Path(os.environ["SAGEMAKER_EMULATOR_OPT_ML"])
ROOM = int(os.environ.get("ROOM", "100"))  # models that it can hold
READY = time.monotonic() + float(os.environ.get("READY_AFTER", "0"))
models: dict[str, Path] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1" if "LATE_CLOSE" in os.environ else "HTTP/1.0"

    def finish(self) -> None:
        time.sleep(float(os.environ.get("LATE_CLOSE", "0")))  # seconds from the response to the end of the connection
        super().finish()

    def do_GET(self) -> None:
        if self.path == "/execution-parameters" and "PARAMETERS" in os.environ:
            self.say(200, os.environ["PARAMETERS"].encode())
        elif self.path == "/ping":
            self.say(200 if time.monotonic() >= READY else 503)
        else:
            self.say(404)

    def do_DELETE(self) -> None:
        models.pop(self.path.split("/")[2])
        print("unloaded", flush=True)
        self.say(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/models":
            self.load(json.loads(body))
        elif self.path == "/invocations":
            self.answer(body, ML / "model")
        elif (name := self.path.split("/")[2]) in models:
            self.answer(body, models[name])
        else:
            self.say(404, b"no such model")

    def load(self, asked: dict[str, str]) -> None:
        target = self.headers["X-Amzn-SageMaker-Target-Model"]
        time.sleep(float(os.environ.get("LOADING", "0")))
        if "broken" in target:
            self.say(400, b"this model is broken")
        elif asked["model_name"] in models:
            print("asked again", flush=True)
            self.say(409)
        elif len(models) >= ROOM:
            self.say(507)
        else:
            models[asked["model_name"]] = Path(asked["url"])
            print("loaded", target, flush=True)
            self.say(200)

    def answer(self, body: bytes, model: Path) -> None:
        if "VERBOSE" in os.environ:
            print("invoked", flush=True)
        if "FATAL" in os.environ:
            os._exit(9)
        time.sleep(float(os.environ.get("SLOW", "0")))
        if "STATUS" in os.environ:
            self.say(int(os.environ["STATUS"]), b"this model is bad")
        elif body.startswith(b"status "):
            self.say(int(body.split()[1]), b"you asked for it")
        elif body == b"forget":
            models.clear()
            self.say(200, b"{}")
        elif body == b"exit":
            os._exit(9)
        elif body == b"flaky":
            marker = ML / "asked"
            self.say(200 if marker.exists() else 500, b"now")
            marker.touch()
        else:
            if body.startswith(b"sleep "):
                time.sleep(float(body.split()[1]))
            file = model / "name"
            known = {
                "model": file.read_text() if file.exists() else None,
                "body": body.decode(),
                "headers": {k.lower(): v for k, v in self.headers.items()},
                "environment": dict(os.environ),
            }
            plain = self.headers.get("Accept") == "text/plain"
            self.say(200, body.upper() if plain else json.dumps(known).encode())

    def say(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        if "X-Amzn-SageMaker-Custom-Attributes" in self.headers:
            self.send_header("X-Amzn-SageMaker-Custom-Attributes", "seen")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


if os.environ.get("EXIT"):
    print("no weights here", flush=True)
    sys.exit(int(os.environ["EXIT"]))
if os.environ.get("DEAF"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("serving", flush=True)
ThreadingHTTPServer.request_queue_size = 128  # Python's five are fewer than the clients at once: some would be reset
ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
