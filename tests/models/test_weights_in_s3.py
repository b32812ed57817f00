"""Backbone weights in S3, served by the emulator, which boto3 finds by its variables."""

import filecmp
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from helpers import Compose
from safetensors.torch import load_file, save_file

from sagehound.artifact import export
from sagehound.errors import ConfigError, InputError
from sagehound.models import weights_file
from sagehound.training import from_config
from sagehound.training.train import train
from sagemaker_emulator.server import Emulator

URI = "s3://kennel/weights/test_resnet.safetensors"


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path) -> Iterator[Any]:
    with Emulator(tmp_path / "emulator") as emulator:
        for name, value in {
            "AWS_ENDPOINT_URL": emulator.url,
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="kennel")
        client.upload_file(str(weights), "kennel", "weights/test_resnet.safetensors")
        yield client


def test_a_run_records_the_weights_that_it_has_loaded(
    s3: Any,  # noqa: ANN401
    config: Compose,
    weights: Path,
    tmp_path: Path,
) -> None:
    cfg = config(f"backbone.weights={URI}", f"cache.dir={tmp_path / 'cache'}")
    model = from_config.classifier(cfg)
    s3.delete_object(Bucket="kennel", Key="weights/test_resnet.safetensors")
    origin = export.origin(model.backbone, cfg.backbone, cfg.cache.dir)
    assert origin["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    resumed = torch.nn.Identity()  # its weights come from a checkpoint
    assert export.origin(resumed, cfg.backbone, cfg.cache.dir)["sha256"] is None


@pytest.mark.slow
def test_a_run_downloads_each_version_of_the_weights_once(
    s3: Any,  # noqa: ANN401
    config: Compose,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cfg = config(f"backbone.weights={URI}", f"cache.dir={tmp_path / 'cache'}", "results=scores")
    train(cfg, tmp_path / "run")
    assert f"downloading {URI}" in capsys.readouterr().out
    first = weights_file.find(URI, cfg.cache.dir)
    assert first.is_relative_to(tmp_path / "cache/weights")
    assert filecmp.cmp(first, weights, shallow=False)
    assert capsys.readouterr().out == "", "it was not downloaded again"
    changed = {name: value + 1 for name, value in load_file(weights).items()}
    save_file(changed, tmp_path / "changed.safetensors")
    s3.upload_file(str(tmp_path / "changed.safetensors"), "kennel", "weights/test_resnet.safetensors")
    second = weights_file.find(URI, cfg.cache.dir)
    assert torch.equal(load_file(second)["bn1.weight"], changed["bn1.weight"])


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://kennel/nothing.pth", "s3://kennel/nothing.pth: no such object"),
        ("s3://no-such-bucket/x.pth", "no such"),
        ("s3://kennel", "give s3://BUCKET/KEY"),
        ("s3://kennel/", "give s3://BUCKET/KEY"),
    ],
)
def test_weights_that_are_not_there(s3: Any, uri: str, message: str) -> None:  # noqa: ANN401
    with pytest.raises((ConfigError, InputError), match=message):
        weights_file.find(uri)


def test_without_boto3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match=r"needs boto3: pip install 'sagehound\[sagemaker\]'"):
        weights_file.find(URI)


def test_without_credentials_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputError, match="Unable to locate credentials; check AWS_PROFILE"):
        weights_file.find(URI)
