"""`deploy=local`: serves one model or several."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from sagehound.config import key
from sagehound.errors import ConfigError
from sagehound_launchers.config.stage import Stage

if TYPE_CHECKING:
    from sagehound_launchers.config import Launch


@dataclass
class Deploy:
    """An endpoint for the model."""

    name: str = key("where it runs", MISSING, choices=("local",))
    host: str = key("address to listen on; 0.0.0.0 lets other machines in", "127.0.0.1")
    port: int = key("0: any free one, which is printed", 8080, at_least=0, at_most=65535)
    model_gb: float | None = key("memory that open models may hold, 10^9 bytes; null: half of it", None, above=0)
    max_requests: int = key("requests that are read or answered at a time; others must try again", 64, at_least=1)
    capture: str | None = key("folder for captured requests and responses, for monitor=local; null: none", None)
    capture_percent: float = key("share of the requests that are captured, percent", 100.0, above=0, at_most=100)
    max_megapixels: float = key("largest size of a photo, 10^6 pixels", 50.0, above=0)

    def conflicts(self, cfg: "Launch") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        if not self.host:
            yield "deploy.host= is empty: give 127.0.0.1, or 0.0.0.0 to let other machines in"
        if "probe" in {stage.name for stage, _ in cfg.stages}:
            yield (
                "deploy=local keeps this terminal: probe it from another, "
                f"python launch.py probe=local endpoint=http://127.0.0.1:{self.port}"
            )


def deploy(cfg: "Launch", own: Deploy, models: Sequence[str], folder: Path) -> None:
    """Serve the models in this process until a signal."""
    from sagehound.serving.request_capture import RequestCapture
    from sagehound.serving.request_handler import Limits
    from sagehound.serving.server import serve

    limits = Limits(requests=own.max_requests, pixels=round(own.max_megapixels * 1e6))
    memory = None if own.model_gb is None else round(own.model_gb * 1e9)
    capture = RequestCapture(Path(own.capture).expanduser(), own.capture_percent) if own.capture else None
    serve(names(models), own.host, own.port, limits, memory, capture)


def names(models: Sequence[str]) -> dict[str, str]:
    """A name for each model: of its run's folder or its archive.

    Raises:
        ConfigError: two models would have one name.
    """
    folders: dict[str, str] = {}
    for model in models:
        path = Path(model).expanduser().resolve()
        name = path.parent.name if path.name == "model.tar.gz" else path.name.removesuffix(".tar.gz")
        if name in folders:
            raise ConfigError(f"model: {folders[name]} and {model} would both be called {name}; rename one")
        folders[name] = model
    return folders


# last, because it serves until it is stopped
STAGE = Stage(
    "deploy", Deploy, 100, deploy, needs_model=True,
    extra={"local": ("serve", "fastapi", "fastapi_offline", "uvicorn", "httptools", "prometheus_client")},
)  # fmt: skip
