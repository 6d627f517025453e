"""The unlearning loop: method → gradient → optimizer, logged, checkpointed, resumable to the bit.

The loop does not depend on the model or the method. Batches, noise and dropout depend on
(seed, step) alone, and a checkpoint holds all other state, so that a run that was killed and
resumed ends with the weights of the undisturbed run.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from erase.config.base import LoopConfig
from erase.core.meta import Stats
from erase.errors import InputError, RunError
from erase.files import append_jsonl, read_jsonl, write_jsonl
from erase.models.weights import not_finite
from erase.runs.checkpoint import (
    Checkpoint,
    copy_into,
    load_checkpoint,
    pack_optimizer,
    save_checkpoint,
    unpack_optimizer,
    with_prefix,
    without_prefix,
)
from erase.runs.processes import Distributed
from erase.tasks.protocol import Method, Task

LOG = "log.jsonl"


class LogRow(TypedDict):
    """What every row of the log says."""

    step: int


REMEDY = "Lower --learning-rate or --alpha, or check the images; earlier checkpoints stay."


def build_optimizer(config: LoopConfig, parameters: list[torch.nn.Parameter]) -> Optimizer:
    """AdamW, or its 8-bit form; InputError if that needs bitsandbytes and it is missing."""
    learning_rate = config.learning_rate
    if learning_rate is None:
        raise ValueError("the configuration is not resolved")
    decay = config.weight_decay or 0.0
    if not config.use_8bit_adam:
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=decay)
    try:
        import bitsandbytes
    except ImportError:
        raise InputError(
            "--use-8bit-adam needs bitsandbytes, which is not installed.",
            "pip install bitsandbytes, or leave the option out.",
        ) from None
    optimizer: Optimizer = bitsandbytes.optim.AdamW8bit(
        parameters, lr=learning_rate, weight_decay=decay
    )
    return optimizer


class UnlearningStep:
    """One step of training: the method's gradient, clipping, optimizer, schedule, moving average.

    The loop calls it on real tensors, the dry run's estimate on simulated ones.

    Args:
        optimizer: over `task.parameters`, in that order.
        schedule: learning rates over the steps; default: the configured one of diffusers.
    """

    def __init__(
        self,
        task: Task,
        method: Method,
        config: LoopConfig,
        optimizer: Optimizer,
        schedule: LRScheduler | None = None,
    ) -> None:
        self.task = task
        self.method = method
        self.config = config
        self.optimizer = optimizer
        self.parameters = list(task.parameters.values())
        self.schedule = schedule or get_scheduler(
            config.lr_scheduler or "constant",
            optimizer,
            num_warmup_steps=config.lr_warmup_steps or 0,
            num_training_steps=int(config.max_train_steps or 0),
        )
        self.ema = EMAModel(self.parameters, decay=config.ema_decay) if config.ema_decay else None

    def __call__(self, step: int, reduce: Callable[[Tensor], Tensor] | None = None) -> Stats:
        """Take step number `step`, from 0; `reduce` averages a gradient over the processes."""
        stats = self.method.step(self.task, step, reduce)
        if self.config.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        self.method.after_step(self.task)
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        if self.ema:
            self.ema.step(self.parameters)
        return stats


class UnlearningLoop:
    """One run of a method on a task.

    Args:
        optimizer: over `task.parameters`, in that order.
        buffers: other tensors that steps change (batch statistics), by name.
        folder: run folder for `log.jsonl` and checkpoints; None writes nothing.
        on_step: called with (steps done, row) after each step, on every process.
        schedule: learning rates over the steps; default: the configured one of diffusers.
        prepared: whether `method.prepare` was called already, because it changes what is trained.
        extra: returns more values to log for a step.
        show: whether to show a progress bar.
        run: fingerprint of the run, for its checkpoints.
        keep_last: whether the last step is checkpointed whatever the configuration says.
        on_save: called in the main process after a checkpoint was written.
        sets: number of sets of which a step uses a batch; for the images per second in the log.
    """

    def __init__(
        self,
        task: Task,
        method: Method,
        config: LoopConfig,
        accelerator: Accelerator,
        optimizer: Optimizer,
        *,
        buffers: Mapping[str, Tensor] | None = None,
        folder: Path | None = None,
        on_step: Callable[[int, Mapping[str, Any]], None] | None = None,
        schedule: LRScheduler | None = None,
        prepared: bool = False,
        extra: Callable[[], Mapping[str, float]] = dict,
        show: bool = True,
        run: str = "",
        keep_last: bool = False,
        on_save: Callable[[], object] = lambda: None,
        sets: int = 2,
    ) -> None:
        self.task = task
        self.method = method
        self.config = config
        self.accelerator = accelerator
        self.distributed = Distributed.of(accelerator)
        self.optimizer = optimizer
        self.buffers = dict(buffers or {})
        self.folder = folder
        self.on_step = on_step
        self.total = int(config.max_train_steps or 0)
        self.prepared = prepared
        self.extra = extra
        self.show = show
        self.sets = sets
        self.forget_losses: list[float] = []
        """Of the steps that were taken here; empty for a method without one."""
        self.run_fingerprint = run
        self.keep_last = keep_last
        self.on_save = on_save
        self.seconds_before = 0.0
        """What the run took up to the checkpoint that it goes on from."""
        self.step = UnlearningStep(task, method, config, optimizer, schedule)
        self.parameters = self.step.parameters
        self.schedule = self.step.schedule
        self.ema = self.step.ema

    def run(self, resume: Path | None = None) -> None:
        """Train to the last step; with `resume`, from that checkpoint on.

        Raises RunError when a loss is not finite; the parameters are then those of the last
        good step, and nothing is saved.
        """
        self._start = time.perf_counter()
        if not self.prepared:
            # Before restoring: masks are made from the original model.
            self.method.prepare(self.task)
        start = self._restore(load_checkpoint(resume)) if resume else 0
        if self.folder and self.distributed.is_main:
            rows = [row for row in read_jsonl(self.folder / LOG, LogRow) if row["step"] <= start]
            write_jsonl(self.folder / LOG, rows)
        reduce = self._mean if self.distributed.count > 1 else None
        progress = tqdm(
            total=self.total,
            initial=start,
            desc=self.config.method,
            unit="step",
            disable=not (self.show and self.distributed.is_main),
        )
        with progress:
            for step in range(start, self.total):
                start_time = time.perf_counter()
                row = self._row(step, reduce)
                row["images_per_s"] = round(self._images / (time.perf_counter() - start_time), 2)
                progress.update()
                progress.set_postfix(
                    retain=row.get("retain_loss"), forget=row.get("forget_loss"), refresh=False
                )
                self._write(step + 1, row)
        if self.ema:
            self.ema.copy_to(self.parameters)
        self._check_finite(self.total)
        self.method.finish(self.task)

    @property
    def _images(self) -> int:
        batch = (self.config.train_batch_size or 1) * self.config.gradient_accumulation_steps
        return self.sets * batch * self.distributed.count

    def _mean(self, tensor: Tensor) -> Tensor:
        reduced: Tensor = self.accelerator.reduce(tensor, "mean")
        return reduced

    def _row(self, step: int, reduce: Callable[[Tensor], Tensor] | None) -> dict[str, Any]:
        learning_rate = self.schedule.get_last_lr()[0]
        try:
            stats = self.step(step, reduce)
        except RunError as error:
            raise RunError(f"Step {step + 1}: {error.message}", REMEDY) from error
        if stats.forget_loss is not None:
            self.forget_losses.append(stats.forget_loss)
        return {"step": step + 1, **_numbers(stats), "lr": learning_rate, **self.extra()}

    def _write(self, done: int, row: dict[str, Any]) -> None:
        if self.folder and self.distributed.is_main:
            append_jsonl(self.folder / LOG, row)
            every = self.config.checkpointing_steps
            last = done == self.total and (every or self.keep_last)
            if last or (every and done % every == 0):
                self._save(self.folder, done)
                self.on_save()
        if self.on_step:
            self.on_step(done, row)

    def _check_finite(self, done: int) -> None:
        """Check the weights before they are saved: a step checks only its loss and gradient."""
        name = not_finite(self.task.parameters)
        if name is not None:
            raise RunError(f"Step {done}: a weight is no longer finite ({name}).", REMEDY)

    def _on_device(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors beside the parameters; numbers in float64, which not every device has, stay."""
        device = next(iter(self.task.parameters.values())).device
        return {
            name: t if t.dtype == torch.float64 else t.to(device) for name, t in tensors.items()
        }

    def _save(self, folder: Path, done: int) -> None:
        self._check_finite(done)
        optimizer, meta = pack_optimizer(self.optimizer)
        tensors = {
            **with_prefix("parameter", self.task.parameters),
            **with_prefix("buffer", self.buffers),
            **with_prefix("optimizer", optimizer),
            **with_prefix("method", self.method.state()),
        }
        state: dict[str, Any] = {
            "optimizer": meta,
            "schedule": self._schedule_state(),
            "seconds": round(self.seconds_before + time.perf_counter() - self._start, 3),
        }
        if self.ema:
            shadow = dict(zip(self.task.parameters, self.ema.shadow_params, strict=True))
            tensors |= with_prefix("ema", shadow)
            state["ema_steps"] = self.ema.optimization_step
        keep = self.config.checkpoints_total_limit
        save_checkpoint(folder, done, tensors, state, keep=keep, run=self.run_fingerprint)

    def _schedule_state(self) -> dict[str, Any]:
        state = self.schedule.state_dict()
        return {name: state[name] for name in ("base_lrs", "last_epoch", "_step_count", "_last_lr")}

    def _restore(self, checkpoint: Checkpoint) -> int:
        tensors = checkpoint.tensors
        if not 0 < checkpoint.step <= self.total:
            raise InputError(
                f"The checkpoint is of step {checkpoint.step}; the run has {self.total}.",
                "Give another checkpoint of the run.",
            )
        self.seconds_before = float(checkpoint.meta.get("seconds", 0.0))
        copy_into(dict(self.task.parameters), without_prefix("parameter", tensors))
        copy_into(self.buffers, without_prefix("buffer", tensors))
        unpack_optimizer(
            self.optimizer, without_prefix("optimizer", tensors), checkpoint.meta["optimizer"]
        )
        self.schedule.load_state_dict(self.schedule.state_dict() | checkpoint.meta["schedule"])
        self.method.load_state(self._on_device(without_prefix("method", tensors)))
        if self.ema:
            shadow = dict(zip(self.task.parameters, self.ema.shadow_params, strict=True))
            copy_into(shadow, without_prefix("ema", tensors))
            self.ema.optimization_step = checkpoint.meta["ema_steps"]
        return checkpoint.step


def _numbers(stats: Stats) -> dict[str, float]:
    names = (
        *("retain_loss", "forget_loss", "retain_grad_norm", "forget_grad_norm", "cosine", "rho"),
        *(("alpha", "curvature", "curvature_size") if stats.curvature is not None else ()),
    )
    values = {name: getattr(stats, name) for name in names}
    return {
        name: float(f"{value:.6g}")
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    }
