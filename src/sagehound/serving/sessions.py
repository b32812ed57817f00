"""Opens networks with ONNX Runtime, on a GPU if there is one."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from sagehound.errors import ConfigError, InputError
from sagehound.system import console
from sagehound.system.machine import cores

DEVICES = ("auto", "cpu", "cuda")
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# as exact as on the CPU, where the model was verified; every number of photos is another shape, for each of which an
# exhaustive search of the fastest convolution would take seconds
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
_PHOTOS = {"cpu": 8, "cuda": 32}  # of one batch; on two cores a photo costs 4.0 ms of eight, 5.0 alone, 4.1 of sixteen
MOST_PHOTOS = max(_PHOTOS.values())
_warned: set[str] = set()


@dataclass(frozen=True)
class Execution:
    """What a process computes with."""

    device: str = "cpu"  # cuda: a GPU of NVIDIA; auto: one if it works
    threads: int | None = None  # for a call of a model and for decoding; None: one for each core

    @property
    def cores(self) -> int:
        """Number of threads."""
        return self.threads or cores()


def check(device: str) -> None:
    """Check that ONNX Runtime has what a device needs.

    Raises:
        ConfigError: it was installed without CUDA.
    """
    if device == "cuda" and _CUDA not in onnxruntime.get_available_providers():
        raise ConfigError(
            "deploy.device=cuda: this ONNX Runtime has no CUDA: pip uninstall onnxruntime; "
            'pip install "onnxruntime-gpu[cuda,cudnn]"'
        )


def open_session(
    path: Path, options: onnxruntime.SessionOptions, execution: Execution
) -> tuple[onnxruntime.InferenceSession, str]:
    """Open a network; returns its session, and its device: cpu or cuda.

    With ``auto``, a GPU that does not work gives one warning.

    Raises:
        InputError: the GPU does not work, and ``execution`` asks for it.
        Exception: any of ONNX Runtime's, if the network is broken.
    """
    device = execution.device
    if device == "cpu" or (device == "auto" and _CUDA not in onnxruntime.get_available_providers()):
        return _session(path, options, [_CPU]), "cpu"
    reason = "ONNX Runtime uses the CPU instead; its log says why"
    try:
        _load_libraries()
        session = _session(path, options, [(_CUDA, _CUDA_OPTIONS), _CPU])
        if _CUDA in session.get_providers():
            return session, "cuda"
    except Exception as error:  # ONNX Runtime's errors have no common base class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        session = None
    if device == "cuda":
        raise InputError(
            f"deploy.device=cuda: the GPU cannot be used ({reason}); look at nvidia-smi, and whether CUDA and cuDNN "
            'are there: pip install "onnxruntime-gpu[cuda,cudnn]"'
        )
    if not _warned:
        _warned.add(device)
        console.warn(f"the GPU cannot be used ({reason}): the model is computed on the CPU")
    return session or _session(path, options, [_CPU]), "cpu"


def batch(device: str) -> int:
    """The largest number of photos of one call."""
    return _PHOTOS[device]


def _session(path: Path, options: onnxruntime.SessionOptions, providers: list[Any]) -> onnxruntime.InferenceSession:
    # without its own fallback, which hides the reason
    return onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0)


def _load_libraries() -> None:
    """Load CUDA and cuDNN from the packages that pip installs, as those of torch; ONNX Runtime 1.21 and later can."""
    load = getattr(onnxruntime, "preload_dlls", None)
    if load is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints each library that it cannot load
            load()
