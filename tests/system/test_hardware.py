"""How `auto` is resolved on this machine, and how the choice is described."""

import pytest
import torch
from helpers import Compose

from sagehound.config import Finetune, Trainer
from sagehound.errors import ConfigError
from sagehound.system import hardware


def trainer(config: Compose, *overrides: str) -> tuple[Trainer, Finetune]:
    cfg = config(*overrides)
    return cfg.trainer, cfg.finetune


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bf16_on_a_cpu_needs_hardware_support(
    config: Compose, monkeypatch: pytest.MonkeyPatch, has_bf16: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    chosen = hardware.choose(*trainer(config, "trainer.accelerator=cpu"), valid=9)
    assert (chosen.accelerator, chosen.devices, chosen.precision) == ("cpu", 1, precision)
    assert f"{precision} (the CPU {'supports it' if has_bf16 else 'has no bf16'})" in str(chosen)
    assert "threads" in str(chosen)
    assert "channels_last" in str(chosen)


def test_explicit_settings_are_used(config: Compose) -> None:
    chosen = hardware.choose(
        *trainer(config, "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.channels_last=false"), valid=9
    )
    assert chosen.precision == "32-true"
    assert "from the config" in str(chosen)
    assert "channels_last" not in str(chosen)


@pytest.mark.parametrize(
    ("bf16", "precision", "why"),
    [(True, "bf16-mixed", "the GPU supports it"), (False, "16-mixed", "the GPU has no bf16")],
)
def test_precision_on_a_gpu_follows_its_support(
    config: Compose, monkeypatch: pytest.MonkeyPatch, bf16: bool, precision: str, why: str
) -> None:
    """The GPU is a mock."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    chosen = hardware.choose(*trainer(config, "trainer.accelerator=auto", "trainer.devices=2"), valid=9)
    assert (chosen.accelerator, chosen.devices, chosen.precision) == ("cuda", 2, precision)
    assert why in str(chosen)


def test_more_devices_than_valid_photos_are_refused(config: Compose) -> None:
    with pytest.raises(ConfigError, match="each needs a valid photo"):
        hardware.choose(*trainer(config, "trainer.accelerator=cpu", "trainer.devices=3"), valid=2)
