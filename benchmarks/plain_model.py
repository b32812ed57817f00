"""What the peers of the server do with a photo: Pillow, then ONNX Runtime. It imports nothing of Sagehound."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image, ImageOps


class PlainModel:
    """The model of an unpacked model.tar.gz.

    Args:
        folder: of model.onnx and model.json.
        threads: of one call of ONNX Runtime; they do not spin, because that takes the cores from decoding.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        card = json.loads((folder / "model.json").read_text())
        self._classes, given = card["classes"], card["preprocessing"]
        (self._height, self._width), self._side = given["size"], given["resize"]
        self._resampling = Image.Resampling[given["interpolation"].upper()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def read(self, body: bytes) -> npt.NDArray[np.uint8]:
        """The pixels that the network sees, of a photo's file. A large JPEG is decoded smaller, which is fastest."""
        image = Image.open(io.BytesIO(body))
        image.draft("RGB", (self._side, self._side))
        upright = ImageOps.exif_transpose(image).convert("RGB")
        scale = self._side / min(upright.size)
        resized = upright.resize([round(scale * side) for side in upright.size], self._resampling)
        left, top = round((resized.width - self._width) / 2), round((resized.height - self._height) / 2)
        return np.asarray(resized.crop((left, top, left + self._width, top + self._height)))

    def classify(self, photos: list[npt.NDArray[np.uint8]]) -> list[dict[str, Any]]:
        """The most probable classes of each photo."""
        probabilities = self._session.run(None, {self._input: np.stack(photos)})[0]
        return [self._answer(row) for row in probabilities]

    def _answer(self, row: npt.NDArray[np.float32]) -> dict[str, Any]:
        top = [{"label": self._classes[i], "probability": float(row[i])} for i in np.argsort(-row)[:5]]
        return {**top[0], "top": top}
