"""Run in a process of its own: opens an artifact as a server would and prints what it says of photos.

Usage: python -P proof.py onnx|inference, then on stdin a line of JSON: {"model": PATH, "photos": [PATH, ...]}. Starts
with what takes long to import, so that it may be started before the artifact lies there.
"""

import importlib
import json
import sys
from pathlib import Path


def by_onnx(model: str, photos: list[str]) -> list[list[float]]:
    """Through Sagehound's own server's predictor; ``model`` is the archive."""
    from sagehound.archive import opened
    from sagehound.data.transforms import prepare
    from sagehound.serving.predictor import Predictor

    with opened(model) as folder:
        predictor = Predictor(folder)
        return [predictor([prepare(Path(photo), predictor.card.to)])[0].tolist() for photo in photos]


def by_inference(model: str, photos: list[str]) -> list[list[float]]:
    """Through the artifact's own inference.py, as SageMaker's containers call it; ``model`` is the unpacked folder."""
    sys.path.insert(0, str(Path(model, "code")))
    inference = importlib.import_module("inference")
    beside = Path(inference.prepare.__code__.co_filename)
    if not beside.is_relative_to(Path(model).resolve()) and not beside.is_relative_to(model):
        raise ImportError(f"inference.py took {beside} from outside of the artifact")
    loaded = inference.model_fn(model)
    found = []
    for photo in photos:
        prediction = inference.predict_fn(inference.input_fn(Path(photo).read_bytes(), "application/x-image"), loaded)
        said = json.loads(inference.output_fn(prediction, "application/json; probabilities=all"))
        found.append(list(said["probabilities"].values()))
    return found


if __name__ == "__main__":
    way = sys.argv[1]
    for name in ("onnxruntime", "PIL.Image") if way == "onnx" else ("torch", "timm", "safetensors.torch"):
        importlib.import_module(name)
    asked = json.loads(sys.stdin.readline())
    print(json.dumps((by_onnx if way == "onnx" else by_inference)(asked["model"], asked["photos"])))
