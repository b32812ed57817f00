"""A callback that gives tensors of the training to observers. Between observed steps the model is unchanged."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from sagehound.config import Debugger
from sagehound.data.datamodule import PhotoDataModule
from sagehound.data.loader import Batch
from sagehound.debugger import findings, histograms, preflight
from sagehound.debugger.evaluator import Evaluator
from sagehound.debugger.layers import activations, trained
from sagehound.debugger.monitor import Monitor, act
from sagehound.debugger.observation import Observed
from sagehound.debugger.observers import Observer, Observers, reported
from sagehound.debugger.rules.rule import Finding
from sagehound.debugger.tensor_folder import unused, where
from sagehound.errors import SagehoundError
from sagehound.models.classifier import Classifier
from sagehound.system import console

_SCORES = {"losses", "labels", "predictions"}
_ACTIVATIONS = {"relu_input", "relu_output", "saturating_input"}


@dataclass
class _Step:
    """The current step, and what is collected until its end."""

    training: bool
    wanted: set[str]  # the collections that are observed of it
    batch_labels: Tensor | None = None  # of the current batch, b
    logits: list[Tensor] = field(default_factory=list)  # b x c of each batch
    labels: list[Tensor] = field(default_factory=list)  # b of each batch
    losses: list[Tensor] = field(default_factory=list)
    undo: ExitStack = field(default_factory=ExitStack)  # removes the hooks from the model


class TensorHook(Callback):
    """Gives the tensors of each step to a recorder (``debugger.save``) and to the rules (``debugger=local``).

    A training step is an optimizer step, of ``trainer.accumulate`` batches; a validation step is a batch. Weights are
    those at the beginning of the step, gradients those that the optimizer gets, before clipping. A frozen backbone has
    no observed weights; cached features have no activations. If a backbone processes a batch in parts, the activations
    of the first part are observed.

    Saved tensors can be read with ``smdebug.trials.create_trial(folder)``, and by AWS's rules. After a resume the step
    numbers continue, in a new folder: tensors-2, tensors-3. After an error, a warning is printed once and training
    continues.

    Args:
        cfg: the group ``debugger``.
        run: the run's folder.
        evaluator: the rules; None: none are evaluated.
    """

    def __init__(self, cfg: Debugger, run: Path, evaluator: Evaluator | None = None) -> None:
        self.cfg, self.run, self.evaluator = cfg, run, evaluator
        self._observers = Observers([])
        self._step: _Step | None = None
        self._should_stop = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the files of each process that observes tensors."""
        if self.evaluator and self.cfg.preflight and trainer.is_global_zero and trainer.global_step == 0:
            self._preflight(trainer, pl_module, self.evaluator)
        batches = sum(n for n in trainer.num_val_batches if isinstance(n, int))
        steps = (trainer.global_step, trainer.current_epoch * batches)
        observers = [o for o in (self._recorder(trainer, steps), self._monitor(trainer, steps)) if o]
        self._observers = Observers(observers)
        wants_relus = {"relu_input", "relu_output"} & set(self.cfg.collections)
        has_relus = "relu" in activations(pl_module).values()
        if self._observers and trainer.is_global_zero and wants_relus and not has_relus:
            console.info("debugger: the model has no ReLU: relu_input and relu_output stay empty")

    def _preflight(self, trainer: pl.Trainer, model: pl.LightningModule, evaluator: Evaluator) -> None:
        data = getattr(trainer, "datamodule", None)
        assert isinstance(model, Classifier)
        assert isinstance(data, PhotoDataModule)
        with reported("the checks before the first epoch are left out"):
            setting = preflight.Setting(model, data, trainer.optimizers[0], trainer.gradient_clip_val, evaluator.facts)
            for name, finding in preflight.run(setting, evaluator, self.cfg.checks):
                act(self.cfg, name, finding, partial(self._on_finding, trainer))

    def _recorder(self, trainer: pl.Trainer, steps: tuple[int, int]) -> Observer | None:
        folder: Path | None = None
        if not self.cfg.save:
            return None
        after_error = "no more tensors are written"
        if trainer.is_global_zero:
            with reported(after_error):
                folder = unused(where(self.cfg.folder, self.run))
        folder = trainer.strategy.broadcast(folder)  # also after an error: the other processes wait for this
        if folder is None or (self.cfg.workers == "one" and not trainer.is_global_zero):
            return None
        with reported(after_error):
            from sagehound.debugger.recorder import Recorder

            folder.mkdir(parents=True, exist_ok=True)
            recorder = Recorder(folder, self.cfg, steps)
            if trainer.is_global_zero:
                console.info(f"debugger: tensors are written to {folder}")
            return recorder
        return None

    def _monitor(self, trainer: pl.Trainer, steps: tuple[int, int]) -> Observer | None:
        if self.evaluator is None or not trainer.is_global_zero:
            return None
        with reported(Monitor.after_error):
            file = self.run / "debugger" / findings.NAME
            if trainer.global_step:  # of a resumed run
                self.evaluator.earlier = findings.read(file)
            log = partial(self._histograms, trainer) if self.cfg.histograms else None
            return Monitor(self.cfg, self.evaluator, file, steps, partial(self._on_finding, trainer), log)
        return None

    def _histograms(self, trainer: pl.Trainer, tensors: Mapping[str, Mapping[str, Observed]]) -> None:
        with reported("these histograms are not logged"):
            histograms.log(tensors, trainer.loggers, trainer.global_step)

    def _on_finding(self, trainer: pl.Trainer, finding: Finding, action: str) -> None:
        with reported("the finding is not logged"):
            findings.log(finding, trainer.loggers, trainer.global_step)
        console.metric(console.FINDINGS_METRIC, len(self.evaluator.findings) if self.evaluator else 0)
        if action == "stop":
            console.info(f"debugger: training stops because of {finding.rule}; the best checkpoint so far is kept")
            self._should_stop = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Begin a training step."""
        if self._step is None:
            self._begin(pl_module, training=True)
        if self._step is not None:
            self._step.batch_labels = batch[1]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Observe the gradients, after mixed precision has unscaled them."""
        if self._step and "gradients" in self._step.wanted:
            self._observers.gradients(partial(trained, pl_module))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """End the step with its last batch; Lightning has divided each loss by the number of batches of a step."""
        is_last = batch_idx + 1 == trainer.num_training_batches
        is_whole = is_last or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self._step is not None:
            self._step.losses.append(outputs["loss"] * trainer.accumulate_grad_batches)
            self._step.labels.append(batch[1])
            if is_whole:
                self._end()
        if is_whole and self._may_stop and trainer.strategy.reduce_boolean_decision(self._should_stop, all=False):
            trainer.should_stop = True

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
        """Close the files, so that they can be read after a stop or an error; a loss that is not finite is observed."""
        step, is_ours = self._step, isinstance(exception, SagehoundError)
        if is_ours and step and step.batch_labels is not None and len(step.logits) > len(step.labels):
            step.labels.append(step.batch_labels)
            step.losses.append(torch.tensor(float("nan"), device=step.batch_labels.device))
            self._end()
        self._close()

    @property
    def _may_stop(self) -> bool:
        chosen = (self.cfg.rules or {}).values()
        return self.cfg.action == "stop" or any(rule.get("action") == "stop" for rule in chosen)

    def _begin(self, model: pl.LightningModule, *, training: bool) -> None:
        if not self._observers:
            return
        parameters = partial(trained, model) if training else tuple
        wanted = self._observers.begin(parameters, training=training)
        self._step = _Step(training, wanted)
        if wanted & _ACTIVATIONS:
            self._step.undo.enter_context(self._observed_layers(model))
        if wanted & _SCORES:
            handle = model.head.register_forward_hook(self._collect)  # type: ignore[union-attr]
            self._step.undo.callback(handle.remove)

    def _collect(self, head: nn.Module, inputs: object, logits: Tensor) -> None:
        if self._step is not None:
            self._step.logits.append(logits.detach())

    @contextmanager
    def _observed_layers(self, model: nn.Module) -> Iterator[None]:
        """Observe the first tensors of every activation layer in this step."""
        passes = {"backbone": 0, "head": 0}

        def count(part: str) -> Callable[..., None]:
            def counted(*_: object) -> None:
                passes[part] += 1

            return counted

        def observe(name: str, kind: str) -> Callable[..., None]:
            part = name.split(".")[0]

            def observed(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
                if passes[part] == 1:
                    tensors = [self._some(t) for t in (*inputs, output)]
                    self._observers.activation(f"{name}.{kind}", tuple(tensors[:-1]), tensors[-1])

            return observed

        layers = {name: (model.get_submodule(name), kind) for name, kind in activations(model).items()}
        in_place = [m for m, _ in layers.values() if getattr(m, "inplace", False)]
        handles = [model.get_submodule(part).register_forward_pre_hook(count(part)) for part in passes]
        handles += [m.register_forward_hook(observe(name, kind)) for name, (m, kind) in layers.items()]
        for module in in_place:
            module.inplace = False  # type: ignore[assignment]  # in place, the observed input would be the output
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in in_place:
                module.inplace = True  # type: ignore[assignment]

    def _some(self, activation: Tensor) -> Tensor:
        """The first photos of an activation, b x ..., at evenly spaced positions."""
        some, most = activation[: self.cfg.photos], self.cfg.positions
        if most is None or some.ndim != 4:
            return some
        stride = -(-max(some.shape[2:]) // most)
        return some[:, :, ::stride, ::stride]

    def _end(self) -> None:
        step, self._step = self._step, None
        if step is None:
            return
        step.undo.close()
        if step.wanted & _SCORES and step.logits:
            self._observers.scores(torch.cat(step.logits), torch.cat(step.labels), torch.stack(step.losses).mean())
        self._observers.end()

    def _close(self) -> None:
        step, self._step = self._step, None
        if step is not None:
            step.undo.close()  # remove the hooks from the model
        self._observers.close()
