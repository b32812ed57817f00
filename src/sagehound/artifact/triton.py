"""config.pbtxt and labels.txt, with which NVIDIA's Triton serves model.onnx.

The format is ModelConfig of Triton's model_config.proto, as protobuf's text.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sagehound.errors import SagehoundError

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

CONFIG, LABELS = "config.pbtxt", "labels.txt"
MOST = 32  # photos of a batch
_TYPES = {1: "TYPE_FP32", 2: "TYPE_UINT8"}  # of onnx.TensorProto
_PROBABILITIES = "probabilities"


def config(network: "ModelProto") -> str:
    """The content of config.pbtxt. It names no model, because Triton uses the folder's name.

    Args:
        network: model.onnx, whose first dimension is the photo.

    Raises:
        SagehoundError: an input or output has a type or a shape that Triton cannot have here.
    """
    return "\n".join(_lines(network)) + "\n"


def labels(classes: Sequence[str]) -> str:
    """The content of labels.txt: a class a line, in the order of the probabilities."""
    return "".join(" ".join(name.split()) + "\n" for name in classes)


def _lines(network: "ModelProto") -> Iterator[str]:
    (photos,) = network.graph.input
    height, width, _ = _dimensions(photos)
    yield "# For NVIDIA's Triton: move model.onnx to NAME/1/, and this file and labels.txt to NAME/."
    yield f"# A photo is RGB between 0 and 255, {height} x {width} pixels; model.json says how it is resized."
    yield 'backend: "onnxruntime"'
    yield 'default_model_filename: "model.onnx"'
    yield f"max_batch_size: {MOST}"
    yield from _tensor("input", photos)
    for made in network.graph.output:
        yield from _tensor("output", made)
    yield "dynamic_batching { }"


def _tensor(kind: str, tensor: "ValueInfoProto") -> Iterator[str]:
    dimensions, number = _dimensions(tensor), tensor.type.tensor_type.elem_type
    if number not in _TYPES:
        raise SagehoundError(f"{tensor.name} of model.onnx has the type {number} of ONNX, which no export writes")
    yield f"{kind} [ {{"
    yield f'  name: "{tensor.name}"'
    yield f"  data_type: {_TYPES[number]}"
    if dimensions:
        yield f"  dims: [ {', '.join(map(str, dimensions))} ]"
    else:  # Triton wants a dimension beside that of the batch
        yield "  dims: [ 1 ]"
        yield "  reshape { shape: [ ] }"
    if tensor.name == _PROBABILITIES:
        yield f'  label_filename: "{LABELS}"'
    yield "} ]"


def _dimensions(tensor: "ValueInfoProto") -> list[int]:
    """Without that of the batch."""
    first, *others = tensor.type.tensor_type.shape.dim
    if not first.dim_param or not all(d.dim_value > 0 for d in others):
        raise SagehoundError(f"{tensor.name} of model.onnx has another shape than photos x known numbers")
    return [d.dim_value for d in others]
