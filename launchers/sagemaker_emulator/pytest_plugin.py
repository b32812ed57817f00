"""A pytest fixture: an emulator for each test that asks for it. pytest finds it by the package's entry point."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sagemaker_emulator.server import Emulator


@pytest.fixture
def sagemaker_emulator(tmp_path: Path) -> Iterator["Emulator"]:
    """A running emulator with empty state, which every client of this test uses."""
    from sagemaker_emulator.client_setup import emulated

    with emulated(tmp_path / "sagemaker-emulator") as emulator:
        yield emulator
