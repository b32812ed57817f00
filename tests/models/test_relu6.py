import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from sagehound.debugger.layers import activations
from sagehound.models.backbone import for_inference
from sagehound.models.classifier import Classifier
from sagehound.models.relu6 import SmallReLU6, use_small


class Net(nn.Sequential):
    """Convolutions with ReLU6 after their norms, as in mobilenetv2."""

    head_hidden_size = 8

    def __init__(self) -> None:
        widths = (3, 16, 8)
        layers = [
            layer
            for a, b in pairwise(widths)
            for layer in (nn.Conv2d(a, b, 3, bias=False), nn.BatchNorm2d(b), nn.ReLU6(inplace=True))
        ]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def nets() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = Net().to(memory_format=torch.channels_last)  # as a Classifier's
    for norm in (plain[1], plain[4]):
        nn.init.constant_(norm.weight, 4)  # so that some values are above 6
    small = copy.deepcopy(plain)
    use_small(small)
    return plain, small


def saved_bytes(net: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """The output, and the bytes that the backward pass needs."""
    sizes: dict[int, int] = {}
    tensors = []

    def note(tensor: Tensor) -> Tensor:
        tensors.append(tensor)  # kept, so that no address is used twice
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        return net(x), sum(sizes.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_step_of_relu6_is_the_same_with_less_memory(
    nets: tuple[nn.Module, nn.Module], dtype: torch.dtype
) -> None:
    x = torch.randn(4, 3, 24, 24)
    outputs, sizes = [], []
    for net in nets:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output, size = saved_bytes(net.train(), x)
        output.float().square().sum().backward()
        outputs.append(output)
        sizes.append(size)
    assert torch.equal(*outputs)
    assert (outputs[0] < 6).all()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert a.grad.any()
        assert torch.equal(a.grad, b.grad)
    assert sizes[1] < 0.8 * sizes[0]


def test_relu6_is_still_fused_for_inference_and_observed_by_the_debugger(nets: tuple[nn.Module, nn.Module]) -> None:
    net = nets[1].eval()
    assert list(activations(net).values()) == ["relu", "relu"]
    x = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        assert torch.allclose(for_inference(net, (24, 24), torch.float32)(x), net(x), atol=1e-4)


def test_a_network_of_ones_own_may_change_the_output_of_its_relu6() -> None:
    net = Net()
    net.insert(3, nn.Dropout(0.1, inplace=True))
    model = Classifier(net, ["a", "b"], finetune="full").train()
    model.backbone(torch.randn(2, 3, 24, 24)).sum().backward()
    assert type(net[2]) is nn.ReLU6


def test_a_network_of_timm_has_the_small_relu6_whose_gradients_have_gradients() -> None:
    net = Classifier("mobilenetv2_035", ["a", "b"], pretrained=False).backbone.requires_grad_().train()
    assert any(type(module) is SmallReLU6 for module in net.modules())
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(inplace=True), nn.Conv2d(8, 4, 3))
    small = copy.deepcopy(plain)
    use_small(small)
    x, found = torch.randn(2, 3, 8, 8), []
    for each in (plain, small):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(each(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
        found.append(each[0].weight.grad)
    assert torch.equal(*found)
