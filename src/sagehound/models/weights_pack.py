"""Files of weights that describe themselves, to carry to a machine without internet.

The header of the .safetensors file has an entry ``sagehound``: JSON with the name in timm, the SHA-256 of the tensors,
the licence, the source and the preprocessing.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sagehound.errors import InputError
from sagehound.inference.preprocessing import Preprocessing
from sagehound.storage.atomic import replacing

_ENTRY = "sagehound"
_PREPROCESSING = ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")  # timm's keys


@dataclass(frozen=True)
class About:
    """The description of a file of weights."""

    name: str  # in timm, with the tag if it is known: resnet34.a1_in1k
    sha256: str  # of the tensors: see ``digest``
    licence: str | None
    source: str
    preprocessing: dict[str, Any]  # see _PREPROCESSING

    def check_name(self, model: nn.Module, name: str, path: Path) -> None:
        """Check that the weights are of this architecture and, if ``name`` has a tag, of this version.

        Raises:
            InputError: they are not.
        """
        architecture, _, tag = self.name.partition(".")
        _, _, wanted = name.partition(".") if ":" not in name else ("", "", "")
        if architecture != _described(model).get("architecture") or (tag and wanted and tag != wanted):
            raise InputError(
                f"backbone.weights={path} has weights of {self.name}, not of {name}: give "
                f"backbone.name={self.name}, or another file"
            )

    def check_content(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Check the tensors.

        Raises:
            InputError: they are not those that were packed.
        """
        if digest(sorted(tensors.items())) != self.sha256:
            raise InputError(
                f"backbone.weights={path}: the weights do not match the SHA-256 in the file, which was changed or "
                "damaged; copy it again, or pack it again with `sagehound weights pack`"
            )


def describe(model: nn.Module, name: str | None = None, source: str | None = None) -> About:
    """Describe a backbone's weights.

    Args:
        model: a timm model without classifier, with its pretrained weights.
        name: in timm; None: that of the weights that timm fetched.
        source: of the weights; None: as timm describes it. With a ``source``, the licence is unknown.
    """
    known = _described(model)
    return About(
        name or ".".join(filter(None, (known["architecture"], known.get("tag")))),
        digest(sorted(model.state_dict().items())),
        None if source else known.get("license"),
        source or f"timm: {known.get('hf_hub_id') or known.get('url')}",
        dict(timm.data.resolve_data_config({}, model=model)),
    )


def write(model: nn.Module, about: About, path: Path) -> None:
    """Write a backbone's weights with their description, atomically.

    Raises:
        SagehoundError: the disk is full, or the folder cannot be written.
    """
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", _ENTRY: json.dumps(asdict(about))})


def read(path: Path) -> About | None:
    """The description of a file; None if it has none.

    Raises:
        InputError: the description is broken.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_ENTRY)
    except (SafetensorError, OSError):
        return None  # reported when the tensors are read
    if text is None:
        return None
    try:
        about = About(**json.loads(text))
        Preprocessing.read(asdict(Preprocessing.of_weights(about.preprocessing)))
        if not isinstance(about.name, str):
            raise ValueError(about.name)
        return replace(about, preprocessing={key: about.preprocessing[key] for key in _PREPROCESSING})
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise InputError(
            f"backbone.weights={path}: the description in the file is broken; pack it again with "
            "`sagehound weights pack`"
        ) from error


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over the names, shapes, types and values of tensors, in the given order."""
    sha256 = hashlib.sha256()
    for name, value in tensors:
        sha256.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        sha256.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def _described(model: nn.Module) -> dict[str, Any]:
    """What timm knows of the model's weights."""
    return dict(model.pretrained_cfg)  # type: ignore[arg-type]
