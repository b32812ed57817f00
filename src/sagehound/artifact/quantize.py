"""artifact_precision=int8: a network of 8-bit numbers, which is kept if it predicts the same and is faster.

ONNX Runtime quantizes weights by channel, and activations by their range on train photos (QDQ). The first
three convolutions, the head, the softmax and the score of unknown photos stay in fp32.
"""

import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sagehound.data.folders import Photo
from sagehound.data.photo_set import PhotoSet
from sagehound.errors import ConfigError
from sagehound.evaluation.tables import Floats, Predictions
from sagehound.inference.preprocessing import Pixels, Preprocessing, prepare
from sagehound.system.machine import cores

if TYPE_CHECKING:
    from onnxruntime import InferenceSession  # imported late: a run in fp32 does not need it

AGREEMENT = 0.995  # least share of the photos that get the same class
SPEEDUP = 1.3  # least ratio of the times of one photo
_PHOTOS = 128  # train photos that show the ranges of the activations
_BATCH = 8  # photos of one call
_ROUNDS = 30  # calls of each network whose times are compared
# first convolutions that stay in fp32: those of few channels gain nothing, and their errors reach all others. Of
# mobilenetv2 with none, 1, 3: 5.1, 3.9, 4.2 ms for a photo (fp32: 7.8); 298, 297, 299 of 300 photos with the same class
_EXACT = 3
_KINDS = ["Conv", "Gemm", "MatMul", "Add", "Mul", "Clip", "Relu"]  # operators that are quantized
_TINY = np.float32(1e-30)  # below any probability of fp32 that matters; its logarithm is finite


@dataclass(frozen=True)
class Trial:
    """How the int8 network compares with the trained one."""

    agreement: float  # share of the photos with the trained model's class
    photos: int
    split: str  # of the photos
    top1: float  # accuracy of the int8 network on them
    trained_top1: float
    speedup: float  # time of one photo in fp32 by that in int8, medians of calls in turn
    calibration_photos: int

    @property
    def is_kept(self) -> bool:
        """Whether the int8 network is served."""
        return self.agreement >= AGREEMENT and self.speedup >= SPEEDUP

    def about(self) -> dict[str, Any]:
        """The entry ``precision`` of model.json."""
        measured = {
            "agreement": round(self.agreement, 6),
            "split": self.split,
            "photos": self.photos,
            "top1": round(self.top1, 6),
            "trained_top1": round(self.trained_top1, 6),
            "speedup": round(self.speedup, 2),
            "calibration_photos": self.calibration_photos,
        }
        return {"served": "int8" if self.is_kept else "fp32", "asked": "int8", "int8": measured}

    def describe(self) -> str:
        """Both figures, and what follows from them."""
        same = f"the trained model's class for {100 * self.agreement:.4g} % of {self.photos:,} {self.split} photos"
        figures = f"{same}, {self.speedup:.2f} times as fast for one photo"
        if self.is_kept:
            return f"int8 gives {figures}; top-1 {100 * self.top1:.1f} % (fp32: {100 * self.trained_top1:.1f} %)"
        return (
            f"artifact_precision=int8: fp32 is kept, because int8 gives {figures}; "
            f"{100 * AGREEMENT:g} % and {SPEEDUP:g} times are needed"
        )


def check() -> None:
    """Check that ONNX Runtime can quantize.

    Raises:
        ConfigError: a package is missing.
    """
    try:
        import onnxruntime.quantization  # noqa: F401 - imported for its errors
    except ImportError as error:
        raise ConfigError(f"artifact_precision=int8 needs {error.name}: pip install {error.name}") from error


def write(network: Path, int8: Path, photos: PhotoSet, preprocessing: Preprocessing) -> int:
    """Quantize a network; returns the number of train photos that showed the ranges of the activations.

    Args:
        network: model.onnx in fp32.
        int8: the file to write.
        photos: the photo set.
        preprocessing: of the photos.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    train = photos.split("train")
    chosen = [train[i * len(train) // _PHOTOS] for i in range(_PHOTOS)] if len(train) > _PHOTOS else list(train)
    batches = _batches(chosen, photos.root, preprocessing)

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # of ONNX Runtime, without types
        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {"photos": batch}

    nodes = onnx.load(network).graph.node
    convolutions = [node.name for node in nodes if node.op_type == "Conv"]
    exact = {*convolutions[:_EXACT], *(node.name for node in nodes if not node.name.startswith("/backbone/"))}
    with _quiet():
        quantize_static(
            str(network),
            str(int8),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_KINDS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(exact),
        )
    return len(chosen)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out ONNX Runtime's advice, which the exporter has followed, and its list of unused constants."""
    import onnxruntime

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(3)  # errors
    try:
        yield
    finally:
        logging.disable(before)
        onnxruntime.set_default_logger_severity(2)  # its default


def compare(
    network: Path, int8: Path, judged: Predictions, photos: PhotoSet, preprocessing: Preprocessing, calibrated: int
) -> tuple[Trial, Predictions]:
    """Measure both networks; returns what was measured, and the int8 network's predictions of the photos.

    Args:
        network: model.onnx in fp32.
        int8: the same in int8.
        judged: the trained model's predictions of the photos.
        photos: the photo set.
        preprocessing: of the photos.
        calibrated: number of train photos that were used.
    """
    sessions = [_session(path) for path in (network, int8)]
    predictions = _predict(sessions[1], judged, photos.root, preprocessing)
    split = judged.photos[0].split
    trial = Trial(
        agreement=float((predictions.predicted == judged.predicted).mean()),
        photos=len(judged.photos),
        split=split,
        top1=float(predictions.correct.mean()),
        trained_top1=float(judged.correct.mean()),
        speedup=_speedup(sessions[0], sessions[1], preprocessing),
        calibration_photos=calibrated,
    )
    return trial, predictions


def _session(path: Path) -> "InferenceSession":
    """As the server opens a network."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _predict(session: "InferenceSession", judged: Predictions, root: Path, preprocessing: Preprocessing) -> Predictions:
    outputs = [session.run(None, {"photos": batch}) for batch in _batches(judged.photos, root, preprocessing)]
    columns = [np.concatenate(column) for column in zip(*outputs, strict=True)]
    logits: Floats = np.log(np.maximum(columns[0], _TINY))  # with a temperature of 1: it is in the network
    return Predictions(judged.photos, judged.labels, logits, 1.0, columns[1] if len(columns) > 1 else None)


def _batches(photos: Sequence[Photo], root: Path, preprocessing: Preprocessing) -> Iterator[Pixels]:
    """Preprocessed photos, b x h x w x 3, as the server sees them."""
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(photos), _BATCH):
            files = [root / photo.file for photo in photos[start : start + _BATCH]]
            yield np.stack(list(pool.map(lambda file: prepare(file, preprocessing), files)))


def _speedup(fp32: "InferenceSession", int8: "InferenceSession", preprocessing: Preprocessing) -> float:
    """The time of one photo in fp32 by that in int8: medians of calls in turn, with the same threads.

    It is the processor's time, which other programs of this machine change little.
    """
    is_exact = time.get_clock_info("process_time").resolution < 1e-4  # on Windows it is 16 ms
    clock = time.process_time if is_exact else time.perf_counter
    photo = np.full((1, *preprocessing.size, 3), 127, np.uint8)
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(_ROUNDS + 3):
        for session, own in zip((fp32, int8), times, strict=True):
            start = clock()
            session.run(None, {"photos": photo})
            if turn >= 3:  # the first calls allocate memory
                own.append(clock() - start)
    return statistics.median(times[0]) / statistics.median(times[1])
