"""Models that do not return, and a large one."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Constants = dict[str, tuple[int, list[int], list[float]]]  # kind, shape and values by name
_FLOAT, _INT, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def looping(folder: Path, when_empty: bool = False) -> Path:
    """A model whose loop takes years, between operators of which it can be stopped.

    Args:
        folder: for the artifact.
        when_empty: also if the photo is black, as at loading.
    """
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["more"]), helper.make_node("Neg", ["x"], ["y"])],
        "body",
        [_value("i", _INT, []), _value("c", _BOOL, []), _value("x", _FLOAT, ["b"])],
        [_value("more", _BOOL, []), _value("y", _FLOAT, ["b"])],
    )
    nodes = [
        helper.make_node("Add", ["largest", "offset"], ["times"]),
        helper.make_node("Mul", ["times", "years"], ["float"]),
        helper.make_node("Cast", ["float"], ["count"], to=_INT),
        helper.make_node("Loop", ["count", "true", "mean"], ["score"], body=body),
    ]
    constants = {
        "offset": (_FLOAT, [], [float(when_empty)]),
        "years": (_FLOAT, [], [2.0**50]),
        "true": (_BOOL, [], [1]),
    }
    return _artifact(folder, nodes, constants)


def endless(folder: Path) -> Path:
    """A model with one operator that takes an hour, unless the photo is black; ONNX Runtime cannot stop it.

    It compares each of two million equal boxes with all others.
    """
    nodes = [
        helper.make_node("Greater", ["largest", "zero"], ["is_lit"]),
        helper.make_node("Cast", ["is_lit"], ["lit"], to=_INT),
        helper.make_node("Mul", ["lit", "millions"], ["further"]),
        helper.make_node("Add", ["further", "one"], ["n"]),
        helper.make_node("Concat", ["one", "n", "four"], ["boxes_shape"], axis=0),
        helper.make_node("Concat", ["one", "one", "n"], ["scores_shape"], axis=0),
        helper.make_node("Expand", ["box", "boxes_shape"], ["boxes"]),
        helper.make_node("Expand", ["score_1", "scores_shape"], ["scores"]),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["kept_float"], to=_FLOAT),
        helper.make_node("ReduceMin", ["kept_float"], ["first"], keepdims=0),
        helper.make_node("Add", ["mean", "first"], ["score"]),
    ]
    constants: Constants = {
        "zero": (_FLOAT, [], [0.0]),
        "millions": (_INT, [1], [2_000_000]),
        "one": (_INT, [1], [1]),
        "four": (_INT, [1], [4]),
        "box": (_FLOAT, [1, 1, 4], [0.0, 0.0, 1.0, 1.0]),
        "score_1": (_FLOAT, [1, 1, 1], [1.0]),
        "most": (_INT, [1], [10_000_000]),
        "overlap": (_FLOAT, [1], [1.0]),
    }
    return _artifact(folder, nodes, constants)


def wide(folder: Path, megabytes: int) -> Path:
    """A model with one layer of this size, in 10^6 bytes."""
    columns = megabytes * 10**6 // (4 * 3072)
    nodes = [
        helper.make_node("Reshape", ["pixels", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["hidden"]),
        helper.make_node("ReduceMean", ["hidden"], ["score"], axes=[1], keepdims=0),
    ]
    weights = np.full((3072, columns), 1e-6, np.float32)
    return _artifact(folder, nodes, {"flat": (_INT, [2], [-1, 3072])}, numpy_helper.from_array(weights, "weights"))


def _value(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _artifact(folder: Path, nodes: list[onnx.NodeProto], constants: Constants, *weights: onnx.TensorProto) -> Path:
    """A model of two classes for photos of 32 x 32 pixels.

    ``nodes`` make the output score, b, of the mean pixels, b, and their maximum, largest.
    """
    nodes = [
        helper.make_node("Cast", ["photos"], ["pixels"], to=_FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("ReduceMax", ["mean"], ["largest"], keepdims=0),
        *nodes,
        helper.make_node("Unsqueeze", ["score", "axis"], ["column"]),
        helper.make_node("Concat", ["column", "column"], ["two"], axis=1),
        helper.make_node("Softmax", ["two"], ["probabilities"], axis=1),
    ]
    initial = [helper.make_tensor(n, k, shape, values) for n, (k, shape, values) in constants.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [_value("photos", TensorProto.UINT8, ["batch", 32, 32, 3])],
        [_value("probabilities", _FLOAT, ["batch", 2])],
        [helper.make_tensor("axis", _INT, [1], [1]), *initial, *weights],
    )
    folder.mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    preprocessing = {"size": [32, 32], "resize": 32, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    card = {"format": 2, "classes": ["a", "b"], "preprocessing": preprocessing, "sets": {}}
    (folder / "model.json").write_text(json.dumps(card))
    return folder
