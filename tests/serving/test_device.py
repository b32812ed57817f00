"""deploy.device: a GPU if ONNX Runtime has one that works. There is none here: a stand-in opens the sessions."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from sagehound.artifact.archive import opened
from sagehound.errors import ConfigError, InputError
from sagehound.serving import sessions
from sagehound.serving.model_store import ModelStore
from sagehound.serving.predictor import Predictor
from sagehound.serving.sessions import Execution

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class Gpu:
    """Opens networks on the CPU, and says what a GPU would."""

    def __init__(self, patch: pytest.MonkeyPatch, *, error: str | None = None, opens: bool = True) -> None:
        self.asked: list[list[str]] = []
        self._real, self._error, self._opens = onnxruntime.InferenceSession, error, opens
        patch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        patch.setattr(onnxruntime, "InferenceSession", self)
        patch.setattr(sessions, "_warned", set())

    def __call__(self, path: Path, options: Any, providers: list[Any], **more: Any) -> Any:  # noqa: ANN401 - ONNX Runtime's
        names = [name if isinstance(name, str) else name[0] for name in providers]
        self.asked.append(names)
        if CUDA in names and self._error:
            raise RuntimeError(self._error)
        session = self._real(path, options, providers=[CPU])
        if self._opens:
            session.get_providers = lambda: names
        return session


def devices(run: Path, device: str) -> list[str | int]:
    """Device and largest batch of a model that is opened."""
    with opened(run) as folder:
        predictor = Predictor(folder, Execution(device, threads=1))
    return [predictor.device, predictor.sessions.batch, predictor.scored.sessions.batch]


def test_a_gpu_is_used_if_there_is_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    assert devices(run, "auto") == devices(run, "cuda") == ["cuda", 32, 32]
    assert gpu.asked == [[CUDA, CPU], [CUDA, CPU]]
    assert devices(run, "cpu") == ["cpu", 8, 8]
    assert gpu.asked[2:] == [[CPU]]
    models = ModelStore(10**9, execution=Execution("auto"))
    models.load("m", str(run))
    assert models.describe("m")["device"] == "cuda"
    models.close()


@pytest.mark.parametrize("broken", [{"error": "no kernel image\nlong trace"}, {"opens": False}])
def test_the_cpu_replaces_a_gpu_that_does_not_work(
    run: Path, monkeypatch: pytest.MonkeyPatch, broken: dict[str, Any]
) -> None:
    Gpu(monkeypatch, **broken)
    warnings: list[str] = []
    monkeypatch.setattr(sessions.console, "warn", warnings.append)
    assert devices(run, "auto") == devices(run, "auto") == ["cpu", 8, 8]
    reason = "no kernel image" if "error" in broken else "ONNX Runtime uses the CPU instead; its log says why"
    assert warnings == [f"the GPU cannot be used ({reason}): the model is computed on the CPU"]
    with pytest.raises(InputError, match=r"deploy.device=cuda: the GPU cannot be used .*nvidia-smi"):
        devices(run, "cuda")


def test_cuda_without_cuda_names_the_package() -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    sessions.check("auto")
    with pytest.raises(ConfigError, match=r'pip install "onnxruntime-gpu\[cuda,cudnn\]"'):
        sessions.check("cuda")
