"""An emulator of the test's own, which `aws=emulator` finds from the test's folder."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings

Control = Callable[..., Any]


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    """SageMaker and S3 on loopback; state in .emulator of the test's folder."""
    with Emulator(
        tmp_path / ".emulator", settings=Settings(variables=("SAGEHOUND_CACHE", "OMP_NUM_THREADS"))
    ) as running:
        yield running


@pytest.fixture
def control(emulator: Emulator) -> Control:
    """Ask the emulator for faults, interruptions, quotas, or what it served."""

    def ask(what: str, content: Any = None) -> Any:  # noqa: ANN401 - JSON's
        body = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{emulator.url}/_emulator/{what}", data=body, headers=headers)
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or b"null")

    return ask


@pytest.fixture
def account(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials and a region as a user's shell has them; AWS's address is the emulator's."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
