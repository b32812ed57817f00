"""Serves a model by a user's script, as AWS's framework images do: ``python serve_script.py`` in a container.

SAGEMAKER_PROGRAM and SAGEMAKER_SUBMIT_DIRECTORY name the script. Its functions model_fn, input_fn, predict_fn and
output_fn, or transform_fn, replace the default ones, by the contract that the README of aws/sagemaker-inference-toolkit
documents. With SAGEMAKER_MULTI_MODEL=true, models are added and removed under /models. Standard library only, from
Python 3.8 on; the defaults for arrays need numpy, those for models torch or a method ``predict``.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

sys.path.insert(0, str(Path(__file__).parent))
from code_folder import ML, CodeError, fetch, install  # type: ignore[import-not-found] # beside this file
from default_handlers import (  # type: ignore[import-not-found] # beside this file
    JSON,
    TEXTS,
    Unsupported,
    default_input,
    default_output,
    default_predict,
)

Data = Any  # what the functions of a script take and return
_UNTYPED = "application/octet-stream"


class Context:
    """What a script's function gets as ``context``, if it has a parameter for it."""

    def __init__(self, folder: Path) -> None:
        self.system_properties = {"model_dir": str(folder), "gpu_id": None}


class Model:
    """A loaded model with the functions that serve it.

    Args:
        folder: with the model's files.
        name: of the model, unique in this process.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._context = Context(folder)
        self._script = _script(folder, name)
        self._transform = self._own("transform_fn")
        self._input = self._own("input_fn") or default_input
        self._predict = self._own("predict_fn") or default_predict
        self._output = self._own("output_fn") or default_output
        if self._transform and any(map(self._own, ("input_fn", "predict_fn", "output_fn"))):
            raise CodeError("the script has transform_fn beside input_fn, predict_fn or output_fn, which AWS refuses")
        load = self._own("model_fn")
        if load is None:
            raise CodeError("the script has no function model_fn(model_dir), which must return the model")
        self._model = self._call(load, 1, str(folder))
        self._lock = threading.Lock()  # AWS's servers have one request at a time in each worker

    def _own(self, name: str) -> Data:
        return getattr(self._script, name, None)

    def _call(self, function: Data, count: int, *values: Data) -> Data:
        """Call a function, with the context if it takes one more argument."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        takes = [p for p in inspect.signature(function).parameters.values() if p.kind in kinds]
        return function(*values, self._context) if len(takes) > count else function(*values)

    def respond(self, body: bytes, content_type: str, accept: str) -> tuple[bytes, str]:
        """The response to a request, and its content type.

        Raises:
            Unsupported: a default function does not know the content type.
        """
        data: Any = body.decode("utf-8") if content_type in TEXTS else body
        with self._lock:
            if self._transform:
                result = self._call(self._transform, 4, self._model, data, content_type, accept)
            else:
                given = self._call(self._input, 2, data, content_type)
                result = self._call(self._output, 2, self._call(self._predict, 2, given, self._model), accept)
        if isinstance(result, tuple):
            result, accept = result[0], result[1]
        elif hasattr(result, "response"):  # a Response of AWS's toolkits
            result, accept = result.response, result.mimetype
        return (result.encode() if isinstance(result, str) else bytes(result)), accept


def _script(folder: Path, name: str) -> Data:
    """The user's script as a module."""
    code = folder / "code"
    source = os.environ.get("SAGEMAKER_SUBMIT_DIRECTORY", "")
    if source.startswith("s3://"):
        code = fetch(source, ML / "code")
    elif not code.is_dir() and Path(source).is_dir():
        code = Path(source)
    program = os.environ.get("SAGEMAKER_PROGRAM", "inference.py")
    file = code / program
    if not file.is_file():
        raise CodeError(f"there is no {file}: model.tar.gz must hold code/{program}, or SAGEMAKER_PROGRAM name another")
    packages = install(code / "requirements.txt")
    sys.path[:0] = [path for path in (str(code), packages) if path]
    spec = importlib.util.spec_from_file_location(f"user_script_{name}", file)
    if spec is None or spec.loader is None:
        raise CodeError(f"{program} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Handler(BaseHTTPRequestHandler):
    """Responds to SageMaker: /ping and /invocations, or /models of a multi-model endpoint."""

    protocol_version = "HTTP/1.1"
    models: ClassVar[dict[str, tuple[str, Model]]] = {}  # address and model, by name; "" is that of a single model
    adding = threading.Lock()

    def do_GET(self) -> None:
        """/ping, and the list of models."""
        if self.path == "/ping":
            self._send(200, b"")
        elif self.path == "/models":
            self._json(200, {"models": [{"modelName": n, "modelUrl": url} for n, (url, _) in self.models.items()]})
        elif (name := self._name()) in self.models:
            self._json(200, [{"modelName": name, "modelUrl": self.models[name][0]}])
        else:
            self._send(404, b"")

    def do_DELETE(self) -> None:
        """Remove a model."""
        self._send(200 if self.models.pop(self._name(), None) else 404, b"")

    def do_POST(self) -> None:
        """An invocation, or a new model."""
        body = self._body()
        if self.path == "/models":
            self._add(json.loads(body))
        elif self.path == "/invocations" or self.path.endswith("/invoke"):
            self._invoke(body)
        else:
            self._send(404, b"")

    def _add(self, request: dict[str, str]) -> None:
        name, url = request["model_name"], request["url"]
        with self.adding:
            if name in self.models:
                self._send(409, b"the model is loaded already")
                return
            try:
                self.models[name] = (url, Model(Path(url), f"{len(self.models)}_{abs(hash(name))}"))
            except Exception:
                self._send(500, traceback.format_exc().encode())
                return
        self._json(200, {"status": "loaded"})

    def _invoke(self, body: bytes) -> None:
        name = "" if self.path == "/invocations" else self._name()
        if name not in self.models:
            self._send(404, b"the model is not loaded")
            return
        accept = self.headers.get("Accept") or ""
        if accept in ("", "*/*"):
            accept = os.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", JSON)
        try:
            content, kind = self.models[name][1].respond(body, self.headers.get("Content-Type") or _UNTYPED, accept)
        except Unsupported as error:
            self._send(415, str(error).encode(), "text/plain")
        except Exception:
            trace = traceback.format_exc()
            print(trace, file=sys.stderr, flush=True)
            self._send(500, trace.encode(), "text/plain")
        else:
            self._send(200, content, kind)

    def _name(self) -> str:
        parts = self.path.split("/")
        return unquote(parts[2]) if len(parts) > 2 and parts[1] == "models" else "?"

    def _body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, status: int, content: Data) -> None:
        self._send(status, json.dumps(content).encode(), JSON)

    def _send(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Data) -> None:
        """Print no line for each ping."""
        if self.path != "/ping":
            print(f"{self.command} {self.path} {arguments[1] if len(arguments) > 1 else ''}", flush=True)


def main() -> int:
    """Load the model and serve it on SAGEMAKER_BIND_TO_PORT until SIGTERM."""
    if os.environ.get("SAGEMAKER_MULTI_MODEL", "").lower() != "true":
        try:
            Handler.models[""] = ("", Model(ML / "model", "single"))
        except CodeError as error:
            print(error, file=sys.stderr, flush=True)
            return 1
    port = int(os.environ.get("SAGEMAKER_BIND_TO_PORT", "8080"))
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
