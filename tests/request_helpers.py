"""Configs and requests of `launch`, compared with the files in golden/."""

import json
import os
from typing import Any

from helpers import ROOT

from sagehound_launchers.config import Launch
from sagehound_launchers.config.schema import composed
from sagehound_launchers.sagemaker.requests import Account

ACCOUNT = Account(
    "eu-west-1",
    "111122223333",
    "arn:aws:iam::111122223333:role/Hound",
    "kennel",
    "111122223333.dkr.ecr.eu-west-1.amazonaws.com/sagehound:latest",
)
GOLDEN = ROOT / "tests/launchers/sagemaker/golden"


def config(*overrides: str) -> Launch:
    return composed(["data=demo", *overrides])


def held(name: str, request: dict[str, Any]) -> None:
    """Compare with the file; SAGEHOUND_UPDATE_GOLDEN=1 writes it anew, to be read before it is kept."""
    path = GOLDEN / f"{name}.json"
    if os.environ.get("SAGEHOUND_UPDATE_GOLDEN"):
        path.write_text(json.dumps(request, indent=2) + "\n")
    assert request == json.loads(path.read_text())
