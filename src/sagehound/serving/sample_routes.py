"""The addresses of the sample photos that a model may carry: data.samples=N of the training."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Response
from fastapi import Path as InPath
from starlette.concurrency import run_in_threadpool

from sagehound.artifact.archive import MOST_SAMPLES, sample_name
from sagehound.errors import InputError
from sagehound.serving.api_description import Name, failures
from sagehound.serving.model_store import ModelStore

_JPEG = "image/jpeg"
_START = b"\xff\xd8\xff"  # of every JPEG file
_MOST_BYTES = 2**20  # of a sample; one of 320 x 320 pixels has 0.03 MB
_PHOTO: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {_JPEG: {"schema": {"type": "string", "format": "binary"}}},
        "description": "A JPEG of at most 320 x 320 pixels",
    }
}

Number = Annotated[int, InPath(ge=0, lt=MOST_SAMPLES, description="0 to the model's number of samples, less 1")]


class NoSample(InputError):
    """The model has no such sample."""


def add_samples(app: FastAPI, models: ModelStore) -> None:
    """Add the address of samples."""

    @app.get("/models/{name}/samples/{number}", response_class=Response, responses=_PHOTO | failures(400, 404))
    async def sample(name: Name, number: Number) -> Response:
        """A photo to try the model with; its model.json says how many it has (samples)."""
        return Response(await run_in_threadpool(_read, models.folder(name), number), media_type=_JPEG)


def _read(folder: Path, number: int) -> bytes:
    """The content of a sample. Anybody may have made the folder: links are not followed, and only JPEG is returned.

    Raises:
        NoSample: there is none, or it is no JPEG.
    """
    path = folder / sample_name(number)
    try:
        is_inside = path.resolve() == folder.resolve() / sample_name(number)
        if is_inside and path.is_file() and path.stat().st_size <= _MOST_BYTES:
            content = path.read_bytes()
            if content.startswith(_START):
                return content
    except OSError as error:
        raise NoSample(f"sample {number} cannot be read: {error.strerror}") from error
    raise NoSample(f"the model has no sample {number}: train it with data.samples=N")
