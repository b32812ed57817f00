"""Settings of an emulator."""

from collections.abc import Mapping
from dataclasses import dataclass, field

REGION = "us-west-2"


@dataclass(frozen=True)
class Settings:
    """What a user or a test may choose."""

    region: str = REGION
    # commands by a regex of the image's name: {"/my-image:": {"train": ["python", "train.py"], "serve": [...]}}; with
    # {"python": ["/environment/bin/python"]}, that Python runs the scripts of estimators and models
    images: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict)
    variables: tuple[str, ...] = ()  # names of environment variables of the emulator that containers get too
    namespaces: bool = True  # give each container a literal /opt/ml, if the system allows it
    grace: float = 120.0  # seconds between SIGTERM and SIGKILL; AWS's own
    sync: float = 1.0  # seconds between two uploads of a job's checkpoints
    hang: float = 60.0  # seconds that a fault of kind timeout takes
    startup: float = 480.0  # seconds until a model's container must respond to /ping with 200; AWS's own
    response: float = 60.0  # seconds until a container must have responded to a request; AWS's own
