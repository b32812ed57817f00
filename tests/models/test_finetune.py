from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Compose
from torch import nn

from sagehound.inference.network import make_head
from sagehound.inference.preprocessing import Preprocessing
from sagehound.models import finetune, schedules
from sagehound.models.classifier import Classifier
from sagehound.training import from_config

TO = Preprocessing((64, 64), 64, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def classifier(config: Compose, *overrides: str) -> Classifier:
    return from_config.classifier(config(*overrides), ["a", "b", "c"])


def groups_of(model: Classifier) -> list[dict[str, Any]]:
    return finetune.parameter_groups(
        model.backbone, model.head, model.finetune, model.optimizer, pretrained=model.pretrained
    )


@pytest.mark.parametrize("way", ["finetune=full", "finetune=gradual"])
def test_every_weight_learns_exactly_once_and_the_backbone_slower(config: Compose, way: str) -> None:
    model = classifier(config, way, "trainer.max_epochs=4", "finetune.backbone_lr=0.1", "finetune.layer_decay=0.5")
    groups = groups_of(model)
    grouped = [id(p) for g in groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    lr = {id(p): g["lr"] for g in groups for p in g["params"]}
    assert lr[id(model.head[0].weight)] == model.optimizer.lr
    of_backbone = [lr[id(p)] for p in model.backbone.parameters()]
    assert max(of_backbone) == pytest.approx(0.1 * model.optimizer.lr)
    assert of_backbone[0] == min(of_backbone) < max(of_backbone) / 8
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(p) for p in model.parameters() if p.ndim > 1}


def test_a_head_run_learns_the_head_alone(config: Compose) -> None:
    model = classifier(config, "head.hidden=[5]")
    groups = groups_of(model)
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in model.head.parameters()}


@pytest.mark.parametrize(
    ("overrides", "frozen"),
    [
        (["finetune=head"], [True, True, True]),
        (["finetune=gradual", "finetune.head_epochs=2", "trainer.max_epochs=3"], [True, True, False]),
        (["finetune=full"], [False, False, False]),
    ],
)
def test_the_backbone_rests_when_it_should(config: Compose, overrides: list[str], frozen: list[bool]) -> None:
    model = classifier(config, *overrides, "finetune.freeze_norm=false").train()
    for epoch, rests in enumerate(frozen):
        model.set_frozen(epoch)
        model.zero_grad()
        model(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)).sum().backward()
        assert all((p.grad is None) is rests for p in model.backbone.parameters())
        norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert all(m.training is not rests for m in norms)
        assert model.head.training


def test_from_nothing_the_backbone_learns_like_the_head(config: Compose) -> None:
    nothing = ["backbone.weights=null", "backbone.pretrained=false"]
    model = classifier(config, "finetune=full", *nothing).train()
    groups = groups_of(model)
    assert {g["lr"] for g in groups} == {model.optimizer.lr}
    assert all(m.training for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d))


def test_normalisation_may_rest_while_the_backbone_learns(config: Compose) -> None:
    model = classifier(config, "finetune=full", "finetune.freeze_norm=true").train()
    photos = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    before = {k: v.clone() for k, v in model.backbone.named_buffers()}
    model(photos).sum().backward()
    assert all(torch.equal(before[k], v) for k, v in model.backbone.named_buffers())
    assert all(p.grad is not None for p in model.backbone.parameters())


@pytest.mark.parametrize(("hidden", "linear"), [([], 1), ([512, 256], 3)])
def test_layers_of_the_head(hidden: list[int], linear: int) -> None:
    head = make_head(96, hidden, 10, dropout=0.2)
    assert sum(isinstance(m, nn.Linear) for m in head) == linear
    assert sum(isinstance(m, nn.Dropout) for m in head) == linear
    assert head(torch.zeros(2, 96)).shape == (2, 10)


def test_no_gradient_is_kept_for_a_backbone_that_rests(config: Compose) -> None:
    model = classifier(config).train()
    photos = torch.randint(0, 256, (40, 3, 64, 64), dtype=torch.uint8)
    model(photos).sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    whole = model.head(model.backbone(model.normalise(photos)))
    torch.testing.assert_close(model(photos), whole, msg="in parts or at once, the features are the same")


def test_the_learning_rate_rises_then_falls() -> None:
    rates = [schedules.rate(step, total=100, warmup=10, end=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.1)
    assert {schedules.rate(step, total=100, warmup=0, end=1.0) for step in range(100)} == {1.0}


@pytest.mark.slow
def test_a_compiled_backbone_gives_the_same_features(config: Compose) -> None:
    photos = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    plain, compiled = (classifier(config, f"trainer.compile={c}").eval() for c in ("false", "true"))
    compiled.load_state_dict(plain.state_dict())
    compiled.setup("fit")
    assert compiled.backbone._compiled_call_impl is not None
    with torch.no_grad():
        torch.testing.assert_close(compiled(photos), plain(photos), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_what_an_optimizer_is_not_told_it_knows_itself(config: Compose, tmp_path: Path, optimizer: str) -> None:
    from sagehound.training.train import train

    unset = ["optimizer.momentum=null"] if optimizer == "sgd" else ["optimizer.betas=null", "optimizer.eps=null"]
    train(config(f"optimizer={optimizer}", *unset, "trainer.max_epochs=1"), tmp_path / "run")
