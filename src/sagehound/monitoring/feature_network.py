"""Runs model.onnx with a second output: the features that the head gets."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from sagehound.artifact.archive import Card
from sagehound.errors import InputError
from sagehound.inference.preprocessing import Pixels
from sagehound.monitoring.sample import Floats
from sagehound.system.machine import cores


class FeatureNetwork:
    """Preprocessed photos to the backbone's features and the probabilities.

    Args:
        folder: an unpacked artifact.

    Attributes:
        card: its model.json.
        features: f, the number of features.

    Raises:
        InputError: the folder holds no model, or a broken one.
    """

    def __init__(self, folder: Path) -> None:
        self.card = Card.read(folder)
        path = folder / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores()
        options.log_severity_level = 4  # errors are raised
        try:
            model = onnx.load(path, load_external_data=False)
            # nodes are in the order of the computation, and the exporter names them after the modules
            name = next(node.input[0] for node in model.graph.node if node.name.startswith("/head/"))
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            (given,) = self._session.get_inputs()
            self._input, self._outputs = given.name, ["probabilities", name]
            probabilities, features = self([np.zeros((*self.card.preprocessing.size, 3), np.uint8)])
            self.features = features.shape[1]
            if probabilities.shape != (1, len(self.card.classes)) or features.ndim != 2:
                raise ValueError(f"its outputs have the shapes {probabilities.shape} and {features.shape}")
        except Exception as error:  # the errors of onnx and ONNX Runtime have no common base class
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path} cannot be used ({reason}); pack the model again") from error

    def __call__(self, photos: list[Pixels]) -> tuple[Floats, Floats]:
        """Probabilities, b x c, and features, b x f, of b photos, each uint8, h x w x 3."""
        probabilities, features = self._session.run(self._outputs, {self._input: np.stack(photos)})
        return probabilities, features
