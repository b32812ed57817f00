"""Runs an unpacked artifact with ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnxruntime

from sagehound.artifact.archive import Card
from sagehound.errors import InputError
from sagehound.inference.formats import Probabilities
from sagehound.inference.preprocessing import Pixels
from sagehound.serving.parallel_sessions import Sessions, is_parallel
from sagehound.serving.sessions import Execution

# the sessions of all models share one arena, so that a second model costs little more than its weights
onnxruntime.create_and_register_allocator(
    onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    ),
    None,
)


def needed(folder: Path) -> int:
    """Bytes of memory that an open model needs: 9 MB of ONNX needed 24 MB, 52 MB needed 85 to 120.

    Raises:
        InputError: there is no model, or its folder cannot be read.
    """
    try:
        beside = [f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.suffix != ".safetensors"]
        (folder / "model.onnx").stat()
    except OSError as error:
        raise InputError(f"{folder / 'model.onnx'} cannot be read ({error.strerror}); pack the model again") from error
    return (3 if is_parallel(folder / "model.onnx") else 2) * sum(beside) + 16 * 2**20


class Stop:
    """Ends what ONNX Runtime computes for one model: between two operators, not within one."""

    def __init__(self) -> None:
        self.loading, self.running = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
        self.loading.log_severity_level = self.running.log_severity_level = 4  # errors are raised

    def __call__(self) -> None:
        """End all calls in progress, which raise an error; later ones, too."""
        self.loading.set_load_cancellation_flag(True)
        self.running.terminate = True


class Predictor:
    """Preprocessed photos to probabilities; threads may share it.

    Args:
        folder: an unpacked artifact.
        execution: device, and threads of one call; None: the CPU, a thread for each core.
        stop: ends its calls; loading, too.

    Raises:
        InputError: the folder holds no model, or a broken one.
    """

    def __init__(self, folder: Path, execution: Execution | None = None, stop: Stop | None = None) -> None:
        self.card = Card.read(folder)
        self.stop = stop or Stop()
        path, execution = folder / "model.onnx", execution or Execution()
        options = self.stop.loading
        # spinning threads would take the cores from decoding
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            self.sessions = Sessions(path, options, execution)
            self.device = self.sessions.device
            (given,), (made, *others) = self.sessions.all.get_inputs(), self.sessions.all.get_outputs()
            self._name, actual = given.name, (given.type, given.shape[1:], made.type, made.shape[1:])
            expected = ("tensor(uint8)", [*self.card.preprocessing.size, 3], "tensor(float)", [len(self.card.classes)])
            if actual != expected:
                raise ValueError(f"its input and output are {actual}, model.json says {expected}")
            empty: list[Pixels] = [np.zeros((*self.card.preprocessing.size, 3), np.uint8)] * 2
            probabilities = self(empty)
            if probabilities.shape != (2, len(self.card.classes)) or not np.allclose(
                probabilities.sum(1), 1, atol=0.01
            ):
                raise ValueError("its output is not probabilities")
            self.scored = ScoredPredictor(self.card, self.sessions, given.name, self.stop)
            self.scored.check(others, empty)
        except InputError:  # of the device
            raise
        except Exception as error:  # ONNX Runtime's errors have no common base class
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path} cannot be used ({reason}); pack the model again") from error

    def __call__(self, photos: list[Pixels], *, is_alone: bool = True) -> Probabilities:
        """Probabilities, b x c, of b photos, each uint8, h x w x 3; ``is_alone``: no other call runs."""
        return self.sessions.run(self._name, photos, self.stop.running, is_alone=is_alone)[0]


class ScoredPredictor:
    """Like its ``Predictor``, but the last column of its rows, b x (c + 1), is the score of unknown photos."""

    def __init__(self, card: Card, sessions: Sessions, name: str, stop: Stop) -> None:
        self.card, self.sessions, self._name, self.stop = card, sessions, name, stop

    def __call__(self, photos: list[Pixels], *, is_alone: bool = True) -> Probabilities:
        """Probabilities and the score of b photos, each uint8, h x w x 3; ``is_alone``: no other call runs."""
        probabilities, unknown = self.sessions.run(self._name, photos, self.stop.running, is_alone=is_alone)
        return np.column_stack([probabilities, unknown])

    def check(self, others: list[onnxruntime.NodeArg], photos: list[Pixels]) -> None:
        """Check the outputs beside the probabilities: one score for each photo, if model.json has its threshold.

        Raises:
            ValueError: they are others, or the score is no finite number.
        """
        scored = self.card.thresholds.unknown is not None
        outputs = [(o.name, o.type, len(o.shape)) for o in others]
        if outputs != ([("unknown", "tensor(float)", 1)] if scored else []):
            raise ValueError(f"its other outputs are {outputs} (name, type, axes), which model.json does not say")
        if scored:
            rows = self(photos)
            if rows.shape != (len(photos), len(self.card.classes) + 1) or not np.isfinite(rows).all():
                raise ValueError("its score of unknown photos is not one finite number for each photo")
