"""Writes tensors with smdebug, step by step, without hooks on the model."""

import atexit
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smdebug.core.locations import TensorLocation
from smdebug.core.tfevent.event_file_writer import EventFileWriter
from smdebug.core.tfevent.events_writer import EventsWriter
from smdebug.core.utils import get_relative_event_file_path, parse_worker_name_from_file
from smdebug.pytorch import Hook, ReductionConfig, SaveConfig, SaveConfigMode, modes
from torch import Tensor, nn

from sagehound.config import Debugger
from sagehound.debugger import LOSS, collections
from sagehound.debugger.observers import Parameters


class Recorder:
    """Writes the tensors of each step, with the names and intervals of the config.

    Args:
        folder: an empty or new folder.
        cfg: the group ``debugger``.
        steps: numbers of training and validation steps before this run.

    Raises:
        Exception: any error of smdebug, here and in every method.
    """

    after_error = "no more tensors are written"

    def __init__(self, folder: Path, cfg: Debugger, steps: tuple[int, int] = (0, 0)) -> None:
        wanted = collections(cfg)
        self._hook = _Hook(out_dir=str(folder), include_collections=list(wanted), include_workers=cfg.workers)
        self._collections = {name: self._hook.get_collection(name) for name in wanted}
        for name, collection in self._collections.items():
            given = wanted[name]
            if "include_regex" in given:
                collection.include(given["include_regex"])
            every = {modes.TRAIN: given["train.save_interval"], modes.EVAL: given["eval.save_interval"]}
            collection.save_config = SaveConfig(
                mode_save_configs={mode: SaveConfigMode(save_interval=interval) for mode, interval in every.items()}
            )
            whole = ReductionConfig(save_raw_tensor=True)
            collection.reduction_config = ReductionConfig.from_dict(given) if "reductions" in given else whole
        train, valid = steps
        self._hook.step = train + valid - 1  # smdebug counts up before each step
        self._hook.mode_steps = {modes.TRAIN: train - 1, modes.EVAL: valid - 1, modes.GLOBAL: train + valid - 1}

    def begin(self, parameters: Parameters, *, training: bool) -> set[str]:
        """Begin the next step and write the parameters; returns the collections to write."""
        hook = self._hook
        hook.set_mode(modes.TRAIN if training else modes.EVAL)
        hook.forward_pre_hook(_Network(parameters), ())
        step = hook.mode_steps[hook.mode]
        return {n for n, c in self._collections.items() if c.save_config.should_save_step(hook.mode, step)}

    def activation(self, name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Write a layer's inputs and output, b x ..."""
        self._hook.forward_hook(_Layer(name), tuple(_plain(t) for t in inputs if isinstance(t, Tensor)), _plain(output))

    def scores(self, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Write the loss and its inputs, b x c and b."""
        self._hook.forward_hook(_Layer(LOSS), (_plain(logits), labels.detach()), _plain(loss))

    def gradients(self, parameters: Parameters) -> None:
        """Write the gradients."""
        for name, parameter in parameters():
            if parameter.grad is not None:
                self._hook.backward_hook(f"{_Network.kind}_{name}")(_plain(parameter.grad))

    def end(self) -> None:
        """Do nothing: each tensor is written at once."""

    def close(self) -> None:
        """Flush, and write the end mark."""
        atexit.unregister(self._hook._cleanup)  # smdebug would close again at exit, and make its folder again
        self._hook.close()

    def abandon(self) -> None:
        """After an error, close files and threads; write only the end mark, if possible."""
        atexit.unregister(self._hook._cleanup)
        if self._hook.writer is not None and self._hook.writer._proto_writer is not None:
            self._hook.writer._proto_writer.abandon()
        self._hook.writer = None
        with contextlib.suppress(Exception):  # the first error was reported
            self._hook.close()  # readers would wait for the mark


class _Hook(Hook):  # type: ignore[misc]  # smdebug ships no types
    """smdebug's hook without its handling of errors, threads and checkpoints."""

    def has_default_configuration(self) -> bool:
        """With the default one smdebug hides its errors and stops saving."""
        return False

    def record_trace_events(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 - smdebug ships no types
        """Write no times: its thread may die, and torch's profiler does it better."""

    def _write_state(self) -> None:
        """Do nothing. On SageMaker it would list the checkpoints at every step and write a file there."""

    def _initialize_writers(self, only_initialize_if_missing: bool = False) -> None:
        super()._initialize_writers(only_initialize_if_missing)
        if self.writer is not None and self.writer._proto_writer is None:
            self.writer._proto_writer = _Writer(self.writer.event_file_path, self.writer.index_writer)


class _Writer(EventFileWriter):  # type: ignore[misc]  # smdebug ships no types
    """Writes at once. smdebug's thread dies if the disk is full, and training would wait for it forever."""

    def __init__(self, path: str, index_writer: Any) -> None:  # noqa: ANN401 - smdebug ships no types
        self._file = EventsWriter(path=path, index_writer=index_writer)
        self._index = index_writer

    def write_event(self, event: Any) -> None:  # noqa: ANN401 - smdebug ships no types
        start, length = self._file.write_event(event.event)
        name = get_relative_event_file_path(self._file.name())
        worker = parse_worker_name_from_file(name)
        mode = event.get_mode()
        self._index.add_index(TensorLocation(event.tensorname, mode, event.mode_step, name, start, length, worker))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def abandon(self) -> None:
        """Leave the file as it is; Python would try to write it again."""
        if self._file.tfrecord_writer is not None:
            self._file.tfrecord_writer._writer = None
            self._file.tfrecord_writer = None


@dataclass(frozen=True)
class _Layer:
    """The attributes of a layer that smdebug reads."""

    _module_name: str


class _Network:
    """The attributes of a network that smdebug reads."""

    kind = _module_name = "Classifier"

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters

    def _get_name(self) -> str:
        return self.kind

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return self._parameters()


def _plain(tensor: Tensor) -> Tensor:
    """Detached, and as float: numpy has no bfloat16, and sums of halves overflow."""
    tensor = tensor.detach()
    return tensor.float() if tensor.is_floating_point() else tensor
