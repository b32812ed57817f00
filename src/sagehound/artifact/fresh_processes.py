"""Processes that open a model.tar.gz as a server does, and send photos to it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sagehound.config import Train
from sagehound.errors import SagehoundError
from sagehound.system.machine import cores

WAYS = {"server": "model.onnx", "inference": "code/inference.py"}  # how photos are sent, and what computes then


class FreshProcesses:
    """Processes that import their packages and wait for an artifact. They end with the block, also after an error.

    Args:
        ways: how photos are sent: server (its application on model.onnx), inference (the artifact's inference.py).
    """

    def __init__(self, ways: Sequence[str] = tuple(WAYS)) -> None:
        self.ways = ways
        self._stack = ExitStack()
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def start(self) -> None:
        """Start those that are not running. Each needs seconds for its imports, and up to 400 MB."""
        threads = str(max(cores() // len(WAYS), 1))  # they run at the same time
        # glibc keeps freed memory, as in the run (see tune_allocator); no GPU
        memory = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
        environment = {"OMP_NUM_THREADS": threads} | memory | os.environ | {"CUDA_VISIBLE_DEVICES": ""}
        for way in set(self.ways) - self._processes.keys():
            process = self._stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-P", str(Path(__file__).parents[1] / "serving" / "verify_worker.py"), way],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment,
                    start_new_session=True,  # Ctrl-C goes to the run, which ends this process
                )
            )
            self._stack.callback(process.kill)
            self._processes[way] = process

    def ask(self, way: str, model: Path, requests: list[dict[str, Any]]) -> tuple[str, list[list[Any]]]:
        """Send requests; returns what was called, and the response for each photo of each request.

        Raises:
            SagehoundError: the process failed, or took more than ten minutes.
        """
        process = self._processes.pop(way)
        try:
            line = json.dumps({"model": str(model), "requests": requests}) + "\n"
            output, complaint = process.communicate(line, timeout=600)
        except subprocess.TimeoutExpired as error:
            raise unfit(way, "it did not respond within ten minutes") from error
        if process.returncode:
            raise unfit(way, complaint.strip().splitlines()[-1] if complaint.strip() else f"exit {process.returncode}")
        response = json.loads(output.splitlines()[-1])
        if "error" in response:
            raise unfit(way, response["error"])
        return response["through"], response["responses"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()


def are_wanted_early(cfg: Train) -> bool:
    """Whether to start the fresh processes with the run, so that they import in parallel.

    Only a head on cached features trains so fast that their memory can be held meanwhile.
    """
    with_artifact = cfg.artifact and cfg.results != "scores" and not int(os.environ.get("NODE_RANK", "0"))
    return bool(with_artifact and cfg.finetune.name == "head" and cfg.features.cache)


def unfit(way: str, reason: str) -> SagehoundError:
    """The error of an archive that is not kept."""
    return SagehoundError(
        f"the model was trained, but {WAYS[way]} in a fresh process does not answer as it does: {reason}. No "
        "model.tar.gz was kept; checkpoints/best.ckpt was. resume=RUN tries again without training"
    )
