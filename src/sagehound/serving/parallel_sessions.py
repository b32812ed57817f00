"""A network that is open twice: for a photo alone with all cores, and for many photos with a core for each call."""

from pathlib import Path

import numpy as np
import onnxruntime

from sagehound.inference.formats import Probabilities
from sagehound.inference.preprocessing import Pixels
from sagehound.serving.sessions import Execution, batch, open_session

_MOST_BYTES = 24 * 2**20  # of model.onnx; a larger one is not opened twice
_PHOTOS = 2  # of a call on one core: of two cores' time, a photo alone takes 7.4 ms, one of two 7.2, one of eight 7.7


def is_parallel(path: Path) -> bool:
    """Whether this model is opened twice, if there are several cores."""
    return path.stat().st_size <= _MOST_BYTES


class Sessions:
    """Runs a network; threads may share it.

    The threads of one call wait for each other after every operator, while other threads decode photos on the same
    cores. So calls at the same time have one thread each: on two cores, 16 clients got 1.3 times as many answers.

    Args:
        path: of model.onnx.
        options: of the sessions.
        execution: device and threads.
    """

    def __init__(self, path: Path, options: onnxruntime.SessionOptions, execution: Execution) -> None:
        options.intra_op_num_threads = execution.cores
        self.all, self.device = open_session(path, options, execution)
        self._one = self.all
        self.calls, self.batch = 1, batch(self.device)  # calls at a time, and photos of one
        if self.device == "cpu" and execution.cores > 1 and is_parallel(path):
            options.intra_op_num_threads = 1
            self._one, _ = open_session(path, options, Execution("cpu", 1))
            self.calls, self.batch = execution.cores, _PHOTOS

    def run(
        self, name: str, photos: list[Pixels], running: onnxruntime.RunOptions, *, is_alone: bool
    ) -> list[Probabilities]:
        """The outputs for b photos, each uint8, h x w x 3; ``is_alone``: no other call runs."""
        session = self.all if is_alone else self._one
        outputs: list[Probabilities] = session.run(None, {name: np.stack(photos)}, running)
        return outputs
