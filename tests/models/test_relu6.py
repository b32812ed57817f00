import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from sagehound.debugger.layers import activations
from sagehound.models.backbone import for_inference
from sagehound.models.classifier import Classifier


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
def nets() -> tuple[nn.Module, Classifier]:
    torch.manual_seed(0)
    plain = Net().to(memory_format=torch.channels_last)  # as a Classifier's
    for norm in (plain[1], plain[4]):
        nn.init.constant_(norm.weight, 4)  # so that some values are above 6
    return plain, Classifier(copy.deepcopy(plain), ["a", "b"], finetune="full")


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
    nets: tuple[nn.Module, Classifier], dtype: torch.dtype
) -> None:
    x = torch.randn(4, 3, 24, 24)
    outputs, sizes = [], []
    for net in (nets[0], nets[1].backbone):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output, size = saved_bytes(net.train(), x)
        output.float().square().sum().backward()
        outputs.append(output)
        sizes.append(size)
    assert torch.equal(*outputs)
    assert (outputs[0] < 6).all()
    for a, b in zip(nets[0].parameters(), nets[1].backbone.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert a.grad.any()
        assert torch.equal(a.grad, b.grad)
    assert sizes[1] < 0.8 * sizes[0]


def test_relu6_is_still_fused_for_inference_and_observed_by_the_debugger(nets: tuple[nn.Module, Classifier]) -> None:
    net = nets[1].backbone.eval()
    assert list(activations(net).values()) == ["relu", "relu"]
    x = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        assert torch.allclose(for_inference(net, (24, 24), torch.float32)(x), net(x), atol=1e-4)
