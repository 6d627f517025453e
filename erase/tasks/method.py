"""Base classes and functions of methods: default hooks, closed forms, gradients of losses."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import Module

from erase.config.base import Config
from erase.core.meta import NonFiniteLossError, Stats
from erase.core.objectives import cross_entropy
from erase.core.rng import generator
from erase.core.trim import trim
from erase.errors import InputError
from erase.tasks.protocol import Batch, ClassifierTask, Loss, Reduce, StepLosses, Subset, Task


@dataclass(frozen=True)
class NoSettings(Config):
    """The `Settings` of a method without settings of its own."""


class BaseMethod:
    """Base of most methods: hooks that do nothing, and epochs over D_r."""

    closed_form: ClassVar[bool] = False
    """Whether `prepare` does everything and no step follows."""
    epoch_over: ClassVar[Literal["forget", "retain", "all"]] = "retain"
    """The set that one epoch goes through once."""
    sets: ClassVar[tuple[str, ...]] = ("forget", "retain")
    """Sets of images that a denoiser's run needs; `anchor` holds images of the anchors."""
    images: bool = True
    """Whether the method reads the images of its sets, or their captions alone."""
    prompts: Sequence[str] = ()
    """Prompts that have to be encoded beside those of the sets."""
    reads_text: ClassVar[bool] = False
    """Whether it needs the text encoders in training, and can train them."""

    def check(self, model: Module, family: str) -> None:
        """Raise InputError for a model that the method cannot work on, before anything is done.

        `model` may be on the meta device: names and shapes, no weights.
        """

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def prepare(self, task: Any) -> None:
        """Nothing to prepare."""

    def after_step(self, task: Any) -> None:
        """Nothing to do after a step."""

    def finish(self, task: Any) -> None:
        """Nothing to finish."""

    def state(self) -> dict[str, Tensor]:
        """What a resumed run cannot make again from the original model: nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned at a checkpoint."""

    def total_steps(self, task: ClassifierTask) -> int:
        """Optimizer steps of the task's epochs; 0 for a closed form."""
        return 0 if self.closed_form else task.epochs * self.steps_per_epoch(task)

    def steps_per_epoch(self, task: ClassifierTask) -> int:
        """Batches of one pass through the epoch's set; a rest fills a whole batch."""
        subsets: tuple[Subset, ...] = (
            ("forget", "retain") if self.epoch_over == "all" else (self.epoch_over,)
        )
        return math.ceil(sum(task.size(name) for name in subsets) / task.batch_size)


class ClosedForm(BaseMethod):
    """A method whose `prepare` does everything."""

    closed_form = True

    def step(self, task: Any, step: int, reduce: Reduce | None) -> Stats:  # noqa: ARG002
        """Refuse (TypeError): no step follows a closed form."""
        raise TypeError("a closed form takes no steps")


def single_loss_step(task: Task, loss: Loss, reduce: Reduce | None, *, retain: bool) -> Stats:
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
        gradients = list(
            torch.autograd.grad(result, parameters, allow_unused=True, materialize_grads=True)
        )
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
    """The two gradients of one step; None for a set that the step does not use."""

    retain: list[Tensor] | None
    forget: list[Tensor] | None
    stats: Stats


class TwoLossMethod(BaseMethod, ABC):
    """A method whose gradient has a retain part and a forget part (for DualOptim's two momenta)."""

    @abstractmethod
    def split(self, task: Any, step: int) -> Split:
        """The two parts of the gradient of a step; their sum is what `step` leaves in `.grad`."""

    def step(self, task: Any, step: int, reduce: Reduce | None) -> Stats:
        """The sum of the two parts, in `.grad`."""
        parts = self.split(task, step)
        gradients = [part for part in (parts.retain, parts.forget) if part is not None]
        total = [torch.stack(pair).sum(0) for pair in zip(*gradients, strict=True)]
        put_gradients(task, total, reduce)
        return parts.stats


def put_gradients(task: Task, gradients: Sequence[Tensor], reduce: Reduce | None = None) -> None:
    """Store gradients in the parameters' `.grad`; `reduce` averages them over processes first."""
    for parameter, gradient in zip(task.parameters.values(), gradients, strict=True):
        parameter.grad = gradient if reduce is None else reduce(gradient)


class RetainForgetMethod(TwoLossMethod):
    """Minimises L_r + λ L_f on the task's own two losses; the base of LUR and LUR-b.

    `settings` holds λ as `forget_weight`, and Scissorhands' trimming as `trim`, `trim_layers`.
    """

    def check(self, model: Module, family: str) -> None:  # noqa: ARG002
        """Raise InputError for trimming of a model that is no classifier."""
        if self.settings.trim is not None and family != "classifier":
            raise InputError("Trimming is for classifiers.", "Leave the option out.")

    def prepare(self, task: Any) -> None:
        """Trim, if the settings say so."""
        trim_for(task, self.settings.trim, self.settings.trim_layers)

    def step(self, task: Task, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of one step, in `.grad`."""
        return self.gradient(task, task.losses(step), reduce)

    @abstractmethod
    def gradient(self, task: Task, losses: StepLosses, reduce: Reduce | None) -> Stats:
        """Leave the gradient of the two losses in `.grad`."""


def mean_loss(losses: Sequence[Loss]) -> Loss:
    """The mean over micro-batches, as one closure."""
    return lambda: torch.stack([loss() for loss in losses]).mean()


TRIM_HELP = (
    "Classifiers: first trim as Scissorhands does, with this share of the network's weights not"
    " salient (0.97 on CIFAR-10). Not in the paper; off by default."
)
TRIM_LAYERS_HELP = "Regular expression for the names of the trimmed layers."


TRIM_SLOPE = math.sqrt(5)
"""Negative slope a of SHs' fresh values in classifiers; with it they lie within 1/√fan_in."""


def trim_for(task: Any, sparsity: float | None, layers: str, batches: int = 1) -> None:
    """Scissorhands' trimming by the saliency of forget batches, in training mode as in its code.

    Args:
        task: a classifier's.
        sparsity: share of the network's weights that are not salient; None does nothing.
        layers: regular expression for the names of the layers that are trimmed.
        batches: augmented forget batches whose absolute gradients are summed.

    Raises:
        InputError: the task is no classifier's, or no layer matches.
    """
    if sparsity is None:
        return
    if task.family != "classifier":
        raise InputError("Trimming is for classifiers.", "Leave the option out.")
    total = [torch.zeros_like(p) for p in task.parameters.values()]
    for number in range(batches):
        batch = task.batch("forget", number)

        def loss(batch: Batch = batch) -> Tensor:
            return cross_entropy(task.logits(batch.images), batch.labels).mean()

        fixed = task.fixed(loss, "trim", number, moves_buffers=False)
        torch._foreach_add_(total, torch._foreach_abs(gradient_of(task, fixed)[0]))
    trim(
        task.model,
        dict(zip(task.parameters, total, strict=True)),
        layers=layers,
        sparsity=sparsity,
        slope=TRIM_SLOPE,
        generator=generator(task.seed, "trim"),
    )
