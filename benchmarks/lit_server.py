"""A peer of the server: LitServe and ONNX Runtime. It imports nothing of Sagehound, and runs in LitServe's environment.

python benchmarks/lit_server.py FOLDER PORT WORKERS BATCH THREADS      FOLDER: an unpacked model.tar.gz

LitServe reads JSON and forms only; a dependency of FastAPI reads the photo as it is sent, which is cheaper than base64.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import litserve
from fastapi import Depends, Request
from plain_model import PlainModel


async def body(request: Request) -> bytes:
    """The body of a request."""
    return await request.body()


class Classifier(litserve.LitAPI):  # type: ignore[misc] # not installed where types are checked
    """Photos to classes."""

    def __init__(self, folder: Path, threads: int, batch: int) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=0.002, api_path="/invocations")
        self._folder, self._threads, self._batch = folder, threads, batch

    def setup(self, device: str) -> None:
        """Open the model, in each worker."""
        self._model = PlainModel(self._folder, self._threads)

    def decode_request(self, request: Annotated[bytes, Depends(body)]) -> Any:  # noqa: ANN401 - LitServe's types
        """The pixels of a photo."""
        return self._model.read(request)

    def batch(self, inputs: list[Any]) -> list[Any]:
        """The photos of a batch."""
        return inputs

    def predict(self, x: Any) -> Any:  # noqa: ANN401
        """The classes of a photo or of a batch."""
        return self._model.classify(x) if self._batch > 1 else self._model.classify([x])[0]

    def unbatch(self, output: Any) -> Any:  # noqa: ANN401
        """An answer for each photo."""
        return output

    def encode_response(self, output: Any) -> Any:  # noqa: ANN401
        """The answer as JSON."""
        return output


if __name__ == "__main__":
    _, folder, port, workers, batch, threads = sys.argv
    server = litserve.LitServer(
        Classifier(Path(folder), int(threads), int(batch)),
        accelerator="cpu",
        workers_per_device=int(workers),
        timeout=False,
        fast_queue=True,
    )
    server.run(host="127.0.0.1", port=int(port), num_api_servers=1, log_level="warning", generate_client_file=False)
