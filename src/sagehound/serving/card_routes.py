"""The addresses of model cards."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from starlette.concurrency import run_in_threadpool

from sagehound.artifact.archive import MODEL_CARD
from sagehound.errors import InputError
from sagehound.serving.api_description import Name, failures
from sagehound.serving.model_store import ModelStore

_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
_MOST_BYTES = 16 * 2**20  # of a card; a thousand classes need 0.1 MB


class NoCard(InputError):
    """The model has no model card."""


def add_cards(app: FastAPI, models: ModelStore) -> None:
    """Add the addresses of MODEL_CARD.md."""

    @app.get("/card", response_class=Response, responses=_TEXT | failures(400, 404))
    async def card() -> Response:
        """The model card of the model that is loaded, in Markdown."""
        return PlainTextResponse(await run_in_threadpool(_read, models.folder(None)))

    @app.get("/models/{name}/card", response_class=Response, responses=_TEXT | failures(400, 404))
    async def card_of(name: Name) -> Response:
        """The model card of a model, in Markdown."""
        return PlainTextResponse(await run_in_threadpool(_read, models.folder(name)))


def _read(folder: Path) -> str:
    """The text of a card. Links are not followed, as anybody may have made the folder.

    Raises:
        NoCard: an older Sagehound wrote the model, or the file cannot be read.
    """
    path = folder / MODEL_CARD
    try:
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= _MOST_BYTES:
            return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise NoCard(f"{MODEL_CARD} cannot be read: {error.strerror}") from error
    raise NoCard(f"the model has no {MODEL_CARD}: an older Sagehound wrote it")
