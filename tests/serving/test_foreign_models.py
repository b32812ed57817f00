"""Models that another program made: a wrong output is found when the model is opened."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import sagehound
from sagehound.errors import InputError


def foreign(folder: Path, nodes: list[onnx.NodeProto], axes: list[str | int], kind: int = TensorProto.FLOAT) -> Path:
    """A model of two classes for photos of 32 x 32 pixels; ``nodes`` make its output unknown of f, the mean pixel."""
    nodes = [
        helper.make_node("Cast", ["photos"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["f"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["f", "axis"], ["column"]),
        helper.make_node("Concat", ["column", "column"], ["two"], axis=1),
        helper.make_node("Softmax", ["two"], ["probabilities"], axis=1),
        *nodes,
    ]
    photos = helper.make_tensor_value_info("photos", TensorProto.UINT8, ["batch", 32, 32, 3])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2])
    unknown = helper.make_tensor_value_info("unknown", kind, axes)
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "g", [photos], [probabilities, unknown], [axis])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    colours = {"mean": [0.5] * 3, "std": [0.5] * 3}
    card = {
        "format": 2,
        "classes": ["a", "b"],
        "preprocessing": {"size": [32, 32], "resize": 32, "interpolation": "bicubic", **colours},
        "unknown": {"threshold": 0.5},
        "sets": {},
    }
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def test_one_score_for_each_photo_is_accepted(tmp_path: Path) -> None:
    model = sagehound.load(foreign(tmp_path, [helper.make_node("Identity", ["f"], ["unknown"])], ["batch"]))
    assert [p.unknown_score for p in model.predict(np.full((2, 40, 40, 3), 7, np.uint8))] == [7, 7]


@pytest.mark.parametrize(
    ("nodes", "axes", "kind", "message"),
    [
        ([helper.make_node("ReduceMean", ["f"], ["unknown"], keepdims=0)], [], TensorProto.FLOAT, "other outputs"),
        ([helper.make_node("Identity", ["two"], ["unknown"])], ["batch", 2], TensorProto.FLOAT, "other outputs"),
        (
            [helper.make_node("Cast", ["f"], ["unknown"], to=TensorProto.INT64)],
            ["batch"],
            TensorProto.INT64,
            "other outputs",
        ),
        (
            [helper.make_node("Sub", ["f", "f"], ["z"]), helper.make_node("Div", ["z", "z"], ["unknown"])],
            ["batch"],
            TensorProto.FLOAT,
            "not one finite number for each photo",
        ),
    ],
)
def test_another_score_of_unknown_photos_is_refused(
    tmp_path: Path, nodes: list[onnx.NodeProto], axes: list[str | int], kind: int, message: str
) -> None:
    with pytest.raises(InputError, match=rf"model\.onnx cannot be used .*{message}"):
        sagehound.load(foreign(tmp_path, nodes, axes, kind))
