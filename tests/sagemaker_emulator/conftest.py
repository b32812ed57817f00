"""A real emulator for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from emulator_helpers import BUCKET, TRAIN, Client, client

from sagemaker_emulator.server import Emulator
from sagemaker_emulator.settings import Settings


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    settings = Settings(images={"/sagehound:": {"train": TRAIN}}, grace=2.0, sync=0.1, hang=0.2)
    with Emulator(tmp_path / "emulator", settings=settings) as running:
        location = {"LocationConstraint": "us-west-2"}
        client(running, "s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)
        yield running


@pytest.fixture
def sm(emulator: Emulator) -> Client:
    return client(emulator, "sagemaker")


@pytest.fixture
def s3(emulator: Emulator) -> Client:
    return client(emulator, "s3")
