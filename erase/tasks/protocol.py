"""What a method may ask of a task, and what the loop asks of a method."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter

from erase.core.meta import Mode, NonFiniteLossError, Stats

Loss = Callable[[], Tensor]
Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class StepLosses:
    """The two losses of one optimizer step, as micro-batches of equal weight.

    Each closure reads the live parameters and returns a 0-dim tensor. Batch, noise, timesteps and
    dropout are fixed: calling one twice gives the same value bit for bit, and batch statistics
    move at most once a step.
    """

    retain: Sequence[Loss]
    forget: Sequence[Loss]


class Task(Protocol):
    """A model under unlearning."""

    family: ClassVar[str]
    """`text-to-image`, `class-conditional` or `classifier`."""
    meta_mode: ClassVar[Mode]
    """How LUR's gradient is computed unless the user says otherwise (`hvp` or `exact`)."""

    @property
    def precision(self) -> Literal["bf16"] | None:
        """`bf16` when the losses run under bf16 autocast."""

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The trained parameters by name; fp32 masters."""

    def losses(self, step: int) -> StepLosses:
        """This process's share of the losses of optimizer step `step` (from 0).

        A function of (seed, step) alone, so that a resumed run sees what an undisturbed one saw.
        """


@dataclass(frozen=True)
class Batch:
    """Images `[B, 3, H, W]` in [0, 1] with their labels `[B]`, whole numbers from 0."""

    images: Tensor
    labels: Tensor


Subset = Literal["forget", "retain"]


class ClassifierTask(Task, Protocol):
    """A classifier under unlearning: what its methods need beyond the two losses of LUR."""

    classes: int
    """Number K of classes that the original model knows."""
    epochs: int
    """Epochs that the run will take."""
    seed: int
    batch_size: int

    @property
    def model(self) -> Module:
        """The trained model: images `[B, 3, H, W]` in [0, 1] → logits `[B, K]`."""

    @property
    def head(self) -> Linear:
        """Its last linear layer; setting it replaces the layer and the trained parameters."""

    @head.setter
    def head(self, layer: Linear) -> None: ...

    def size(self, subset: Subset) -> int:
        """Number of samples of D_f or D_r."""

    def batch(self, subset: Subset, step: int, size: int | None = None) -> Batch:
        """The augmented batch of a step; a function of (seed, step) alone."""

    def ordered(self, *subsets: Subset, size: int | None = None) -> Iterator[Batch]:
        """Every sample once, in order, not augmented."""

    def draw(self, subset: Subset, count: int, name: str) -> Batch:
        """At most `count` distinct samples chosen by (seed, name), not augmented."""

    def logits(self, images: Tensor, model: Module | None = None) -> Tensor:
        """Logits `[B, K]` in float32, under the task's autocast, in the model's present mode."""

    def fixed(self, loss: Loss, name: str, step: int, *, moves_buffers: bool = True) -> Loss:
        """The loss with its random state fixed by (seed, step, name)."""

    def evaluating(self) -> AbstractContextManager[None]:
        """Inside, the model is in evaluation mode."""

    def reset(self, seed: int) -> None:
        """Give all weights and statistics fresh initial values."""


class Method(Protocol):
    """One unlearning method; a file of `erase/methods/` holds `Settings` and `Method`.

    `Settings` is a frozen dataclass of hyper-parameters, the source's defaults, each field with
    `metadata={"help": …}`. `Method(settings)` is what the loop drives. `DEFAULTS`, where a file
    has it, holds what the source uses on a data set; `SEARCH`, the ranges that a search goes over.

    The task is `Any` here because a method of one family asks for that family's task; whoever
    builds the method checks `families` first.
    """

    families: ClassVar[frozenset[str]]
    """Task families that the method is defined for."""
    settings: Any

    def prepare(self, task: Any) -> None:
        """Do what is done once: masks, trimming, importance weights. May do nothing."""

    def step(self, task: Any, step: int, reduce: Reduce | None) -> Stats:
        """Leave the gradient of step `step` in every parameter's `.grad`; return its statistics.

        `reduce` averages a tensor over processes; None in a single process.
        """

    def after_step(self, task: Any) -> None:
        """Called after each optimizer step, e.g. to put masked weights back."""

    def finish(self, task: Any) -> None:
        """Called after the last step, e.g. to drop a head that was only for training."""


class BaseMethod:
    """What most methods share: hooks that do nothing, and an epoch that goes over D_r."""

    closed_form: ClassVar[bool] = False
    """Whether `prepare` does everything and no step follows."""
    epoch_over: ClassVar[Literal["forget", "retain", "all"]] = "retain"
    """The set that one epoch goes through once."""

    def prepare(self, task: Any) -> None:
        """Nothing to prepare."""

    def after_step(self, task: Any) -> None:
        """Nothing to do after a step."""

    def finish(self, task: Any) -> None:
        """Nothing to finish."""

    def total_steps(self, task: ClassifierTask) -> int:
        """Optimizer steps of the task's epochs; 0 for a closed form."""
        return 0 if self.closed_form else task.epochs * self.steps_per_epoch(task)

    def steps_per_epoch(self, task: ClassifierTask) -> int:
        """Batches that it takes to go once through the epoch's set, the last one full."""
        both = self.epoch_over == "all"
        subsets: tuple[Subset, ...] = ("forget", "retain") if both else (self.epoch_over,)  # type: ignore[assignment]
        return math.ceil(sum(task.size(name) for name in subsets) / task.batch_size)


def one_loss(task: Task, loss: Loss, reduce: Reduce | None, *, retain: bool) -> Stats:
    """Leave the gradient of one loss in `.grad`; its value is reported as L_r or as L_f.

    Raises:
        NonFiniteLossError: the loss or its gradient is not finite.
    """
    gradients, value, norm = gradient_of(task, loss)
    put_gradients(task, gradients, reduce)
    nan = math.nan
    return Stats(value if retain else nan, nan if retain else value, norm)


def gradient_of(task: Task, loss: Loss) -> tuple[list[Tensor], float, float]:
    """Gradient of a loss with respect to the trained parameters, its value, the gradient's norm.

    Raises:
        NonFiniteLossError: the loss or its gradient is not finite.
    """
    parameters = list(task.parameters.values())
    with torch.enable_grad():
        result = loss()
        found = torch.autograd.grad(result, parameters, allow_unused=True, materialize_grads=True)
    gradients = list(found)
    value = float(result.detach())
    norm = float(torch.stack([g.double().norm() for g in gradients]).norm())
    if not (math.isfinite(value) and math.isfinite(norm)):
        raise NonFiniteLossError(
            f"the loss is {value}, its gradient's norm {norm}; the parameters are unchanged",
            "Lower the learning rate, or check the data for broken samples.",
        )
    return gradients, value, norm


@dataclass(frozen=True)
class Split:
    """The gradients of one step kept apart; None for a set that the step leaves out."""

    retain: list[Tensor] | None
    forget: list[Tensor] | None
    stats: Stats


class TwoLossMethod(BaseMethod):
    """A method whose gradient has a retain part and a forget part (for DualOptim's two momenta)."""

    def split(self, task: Any, step: int) -> Split:
        """The two parts of the gradient of a step; their sum is what `step` leaves in `.grad`."""
        raise NotImplementedError

    def step(self, task: Any, step: int, reduce: Reduce | None) -> Stats:
        """The sum of the two parts, in `.grad`."""
        parts = self.split(task, step)
        given = [part for part in (parts.retain, parts.forget) if part is not None]
        total = [torch.stack(pair).sum(0) for pair in zip(*given, strict=True)]
        put_gradients(task, total, reduce)
        return parts.stats


def put_gradients(task: Task, gradients: Sequence[Tensor], reduce: Reduce | None) -> None:
    """Make these the parameters' `.grad`, averaged over processes."""
    for parameter, gradient in zip(task.parameters.values(), gradients, strict=True):
        parameter.grad = gradient if reduce is None else reduce(gradient)
