"""What a classifier looked at in a photo: Grad-CAM for convolutional backbones, occlusion for the others."""

import torch
from torch import Tensor

from sagehound.models.classifier import Classifier

_PATCHES = 7  # occluded patches of each side


def heat_maps(model: Classifier, photos: Tensor, classes: Tensor) -> Tensor:
    """How much each place of a photo supports a class, b x h x w, from 0 to 1.

    Grad-CAM (Selvaraju et al. 2017) of the last feature map, whose height and width it has; for a backbone without one,
    the loss of probability when a patch is grey (Zeiler and Fergus 2014), 7 x 7 patches. A place without influence is
    0. Model and gradients are unchanged.

    Args:
        model: in eval mode.
        photos: uint8, b x 3 x height x width.
        classes: b, from 0.
    """
    was_training = model.training
    model.eval()
    try:
        maps = _feature_maps(model, photos)
        return _occlusion(model, photos, classes) if maps is None else _grad_cam(model, maps, classes)
    finally:
        model.train(was_training)


def _feature_maps(model: Classifier, photos: Tensor) -> Tensor | None:
    """The last feature maps of timm's convolutional backbones, b x f x h x w; None for others."""
    forward = getattr(model.backbone, "forward_features", None)
    if forward is None or not hasattr(model.backbone, "forward_head"):
        return None
    with torch.no_grad():
        maps = forward(model.normalise(photos))
    is_spatial = isinstance(maps, Tensor) and maps.ndim == 4
    return maps if is_spatial and maps.shape[1] == getattr(model.backbone, "num_features", 0) else None


def _grad_cam(model: Classifier, maps: Tensor, classes: Tensor) -> Tensor:
    with torch.enable_grad():
        maps = maps.detach().requires_grad_()
        logits = model.head(model.backbone.forward_head(maps))  # type: ignore[operator] # timm's method
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), maps)
    heat = (gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1).clamp(min=0)
    return _to_one(heat)


def _occlusion(model: Classifier, photos: Tensor, classes: Tensor) -> Tensor:
    height, width = photos.shape[2] / _PATCHES, photos.shape[3] / _PATCHES
    heat = torch.zeros(len(photos), _PATCHES, _PATCHES, device=photos.device)
    with torch.no_grad():
        before = model.probabilities(model(photos)).gather(1, classes[:, None])[:, 0]
        for row in range(_PATCHES):
            for column in range(_PATCHES):
                grey = photos.clone()
                rows = slice(round(row * height), round((row + 1) * height))
                grey[:, :, rows, round(column * width) : round((column + 1) * width)] = 128
                after = model.probabilities(model(grey)).gather(1, classes[:, None])[:, 0]
                heat[:, row, column] = (before - after).clamp(min=0)
    return _to_one(heat)


def _to_one(heat: Tensor) -> Tensor:
    """Divided by the largest value of each photo."""
    return heat / heat.flatten(1).amax(1).clamp(min=1e-12)[:, None, None]
