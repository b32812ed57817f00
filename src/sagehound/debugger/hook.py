"""A callback that saves tensors of the training. Between saved steps the model is unchanged."""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from sagehound.config import Debugger
from sagehound.data.loader import Batch
from sagehound.errors import SagehoundError
from sagehound.models.classifier import Classifier
from sagehound.system import console

if TYPE_CHECKING:
    from sagehound.debugger.recorder import Recorder

_SCORES = {"losses", "labels", "predictions"}
_ACTIVATIONS = {"relu_input", "relu_output"}
_SAGEMAKER = "/opt/ml/input/config/debughookconfig.json"  # SageMaker's copy of the request


@dataclass
class _Step:
    """The current step, and what is collected until its end."""

    training: bool
    saved: set[str]  # the collections that are saved of it
    logits: list[Tensor] = field(default_factory=list)  # b x c of each batch
    labels: list[Tensor] = field(default_factory=list)  # b of each batch
    losses: list[Tensor] = field(default_factory=list)
    undo: ExitStack = field(default_factory=ExitStack)  # removes the hooks from the model


class TensorHook(Callback):
    """Writes tensors with smdebug, for ``smdebug.trials.create_trial(folder)`` and AWS's rules to read.

    A training step is an optimizer step, of ``trainer.accumulate`` batches; a validation step is a batch. Weights are
    those at the beginning of the step, gradients those that the optimizer gets, before clipping. A frozen backbone has
    no saved weights; cached features have no activations. If a backbone processes a batch in parts, the activations of
    the first part are saved.

    After a resume the step numbers continue, in a new folder: tensors-2, tensors-3. After an error, a warning is
    printed once and training continues without tensors.

    Args:
        cfg: the group ``debugger``.
        run: the run's folder.
    """

    def __init__(self, cfg: Debugger, run: Path) -> None:
        self.cfg, self.run = cfg, run
        self._recorder: Recorder | None = None
        self._step: _Step | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the folder in each process that saves tensors."""
        folder: Path | None = None
        if trainer.is_global_zero:
            with self._reported():
                folder = unused(where(self.cfg.folder, self.run))
        folder = trainer.strategy.broadcast(folder)  # also after an error: the other processes wait for this
        if folder is None or (self.cfg.workers == "one" and not trainer.is_global_zero):
            return
        with self._reported():
            from sagehound.debugger.recorder import Recorder

            batches = sum(n for n in trainer.num_val_batches if isinstance(n, int))
            folder.mkdir(parents=True, exist_ok=True)
            self._recorder = Recorder(folder, self.cfg, (trainer.global_step, trainer.current_epoch * batches))
            if trainer.is_global_zero:
                console.info(f"debugger: tensors are written to {folder}")
                if _ACTIVATIONS & set(self.cfg.collections) and not relus(pl_module):
                    console.info("debugger: the model has no ReLU: relu_input and relu_output stay empty")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Begin a training step."""
        if self._step is None:
            self._begin(pl_module, training=True)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Save the gradients, after mixed precision has unscaled them."""
        if self._recorder and self._step and "gradients" in self._step.saved:
            with self._reported():
                self._recorder.gradients(trained(pl_module))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """End the step with its last batch; Lightning has divided each loss by the number of batches of a step."""
        if self._step is None:
            return
        self._step.losses.append(outputs["loss"] * trainer.accumulate_grad_batches)
        self._step.labels.append(batch[1])
        last = batch_idx + 1 == trainer.num_training_batches
        if last or (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._end()

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Begin a validation step."""
        if not trainer.sanity_checking:
            self._begin(pl_module, training=False)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End the step; the loss is computed as in the model."""
        if self._step is not None:
            self._step.labels.append(batch[1])
            if self._step.logits:
                self._step.losses.append(F.cross_entropy(self._step.logits[0].float(), batch[1]))
            self._end()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the files."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the files, so that they can be read after a stop or an error."""
        self._close()

    def _begin(self, model: pl.LightningModule, *, training: bool) -> None:
        if self._recorder is None:
            return
        with self._reported():
            saved = self._recorder.begin(trained(model) if training else (), training=training)
            self._step = _Step(training, saved)
            if saved & _ACTIVATIONS:
                self._step.undo.enter_context(self._listening(model, self._recorder))
            if saved & _SCORES:
                handle = model.head.register_forward_hook(self._keep)  # type: ignore[union-attr]
                self._step.undo.callback(handle.remove)

    def _keep(self, head: nn.Module, inputs: object, logits: Tensor) -> None:
        if self._step is not None:
            self._step.logits.append(logits.detach())

    @contextmanager
    def _listening(self, model: nn.Module, recorder: "Recorder") -> Iterator[None]:
        """Save every ReLU's first tensors of this step."""
        passes = {"backbone": 0, "head": 0}

        def count(part: str) -> Callable[..., None]:
            def counted(*_: object) -> None:
                passes[part] += 1

            return counted

        def write(name: str) -> Callable[..., None]:
            part = name.split(".")[0]

            def written(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
                if passes[part] == 1:
                    n = self.cfg.photos
                    with self._reported():
                        recorder.activation(f"{name}.relu", tuple(t[:n] for t in inputs), output[:n])

            return written

        layers = relus(model)
        in_place = [m for m in layers.values() if m.inplace]
        handles = [model.get_submodule(part).register_forward_pre_hook(count(part)) for part in passes]
        handles += [m.register_forward_hook(write(name)) for name, m in layers.items()]
        for module in in_place:
            module.inplace = False  # in place, the saved input would be the output
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in in_place:
                module.inplace = True

    def _end(self) -> None:
        step, self._step = self._step, None
        if step is None:
            return
        step.undo.close()
        if self._recorder and step.saved & _SCORES and step.logits:
            with self._reported():
                loss = torch.stack(step.losses).mean()
                self._recorder.scores(torch.cat(step.logits), torch.cat(step.labels), loss)

    def _close(self) -> None:
        self._leave()
        if self._recorder is not None:
            with self._reported():
                self._recorder.close()
            self._recorder = None

    def _leave(self) -> None:
        """Remove the hooks from the model."""
        step, self._step = self._step, None
        if step is not None:
            step.undo.close()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """After an error of smdebug or the disk, stop saving and continue training. Stops by a signal are raised."""
        try:
            yield
        except SagehoundError:
            raise
        except Exception as error:
            self._leave()
            recorder, self._recorder = self._recorder, None
            console.warn(f"debugger: no more tensors are written ({type(error).__name__}: {error}); training continues")
            if recorder is not None:
                recorder.abandon()


def trained(model: pl.LightningModule) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are trained now, by name."""
    assert isinstance(model, Classifier)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not (model.frozen and name.startswith("backbone.")):
            yield name, parameter


def relus(model: nn.Module) -> dict[str, nn.ReLU | nn.ReLU6]:
    """The ReLUs, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.ReLU | nn.ReLU6)}


def where(folder: str | None, run: Path) -> Path:
    """The folder of the config, or SageMaker's folder of tensors, or the run's debugger/tensors."""
    config = Path(os.environ.get("SMDEBUG_CONFIG_FILE_PATH", _SAGEMAKER))
    if folder:
        return Path(folder).expanduser()
    if config.exists():
        return Path(json.loads(config.read_text()).get("LocalPath", "/opt/ml/output/tensors"))
    return run / "debugger" / "tensors"


def unused(folder: Path) -> Path:
    """The first empty one of folder, folder-2, folder-3, ..."""
    others = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    return next(f for f in itertools.chain([folder], others) if not f.exists() or (f.is_dir() and not any(f.iterdir())))
