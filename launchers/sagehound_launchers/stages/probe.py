"""`probe=local|sagemaker`: sends test photos to an endpoint."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from sagehound.config import key
from sagehound_launchers.config.stage import Stage

if TYPE_CHECKING:
    from sagehound_launchers.config import Launch


@dataclass
class Probe:
    """Test photos sent to an endpoint."""

    name: str = key("where the endpoint is: any address, or SageMaker", MISSING, choices=("local", "sagemaker"))
    clients: int = key("clients that send at a time", 4, at_least=1)
    timeout: float = key("seconds for a response", 60.0, above=0)
    wanted_per_second: float | None = key(
        "local: photos a second for which the cheapest machines of SageMaker are named", None, above=0
    )

    def conflicts(self, cfg: "Launch") -> Iterator[str]:
        """Yield a message for each setting that contradicts another."""
        endpoint = cfg.endpoint
        if not endpoint:
            yield "probe needs endpoint=: an address such as http://127.0.0.1:8080, or a name on SageMaker"
        if self.name == "local" and not str(endpoint).startswith(("http://", "https://")):
            yield f"endpoint={endpoint}: with probe=local give an address, such as http://127.0.0.1:8080"
        if self.name == "sagemaker" and self.wanted_per_second:
            yield "probe.wanted_per_second compares with this machine: choose probe=local and a server here"
        if self.name == "sagemaker" and "/" in str(endpoint):
            yield (f"endpoint={endpoint}: with probe=sagemaker give the endpoint's name; an address is for probe=local")


def probe(cfg: "Launch", own: Probe, models: Sequence[str], folder: Path) -> None:
    """Send the photos, and write the scores to the run's folder."""
    from sagehound_launchers.endpoint_probe import advise, probe

    summary = probe(cfg, folder, is_sagemaker=own.name == "sagemaker", clients=own.clients, timeout=own.timeout)
    if own.wanted_per_second:
        advise(str(cfg.endpoint), summary["photos_per_second"], own.wanted_per_second, cfg.aws.region)


STAGE = Stage("probe", Probe, 20, probe, extra={"local": ("serve", "urllib3"), "sagemaker": ("sagemaker", "boto3")})
