"""What `auto` becomes on this machine, and what is said of it."""

import pytest
import torch
from conftest import Compose

from sagehound import compute
from sagehound.config import Finetune, Trainer
from sagehound.errors import ConfigError


def trainer(config: Compose, *overrides: str) -> tuple[Trainer, Finetune]:
    cfg = config(*overrides)
    return cfg.trainer, cfg.finetune


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_cpu_computes_in_bf16_only_if_it_has_it(
    config: Compose, monkeypatch: pytest.MonkeyPatch, has_bf16: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    chosen = compute.choose(*trainer(config, "trainer.accelerator=cpu"), valid=9)
    assert (chosen.accelerator, chosen.devices, chosen.precision) == ("cpu", 1, precision)
    assert f"{precision} (the processor has {'it' if has_bf16 else 'no bf16'})" in str(chosen)
    assert "threads" in str(chosen)
    assert "channels_last" in str(chosen)


def test_what_was_asked_for_is_taken(config: Compose) -> None:
    chosen = compute.choose(
        *trainer(config, "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.channels_last=false"), valid=9
    )
    assert chosen.precision == "32-true"
    assert "as asked for" in str(chosen)
    assert "channels_last" not in str(chosen)


@pytest.mark.parametrize(
    ("bf16", "precision", "why"), [(True, "bf16-mixed", "the GPU has it"), (False, "16-mixed", "the GPU has no bf16")]
)
def test_a_gpu_computes_in_what_it_has(
    config: Compose, monkeypatch: pytest.MonkeyPatch, bf16: bool, precision: str, why: str
) -> None:
    """The GPU is a mock: none can be had here."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    chosen = compute.choose(*trainer(config, "trainer.accelerator=auto", "trainer.devices=2"), valid=9)
    assert (chosen.accelerator, chosen.devices, chosen.precision) == ("cuda", 2, precision)
    assert why in str(chosen)


def test_more_devices_than_there_are_photos_to_share_are_refused(config: Compose) -> None:
    with pytest.raises(ConfigError, match="each needs a valid photo"):
        compute.choose(*trainer(config, "trainer.accelerator=cpu", "trainer.devices=3"), valid=2)
