"""The interfaces of tasks, which methods use, and of methods, which the loop uses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import Linear, Module, Parameter

from erase.core.meta import Mode, Stats

Loss = Callable[[], Tensor]
Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class StepLosses:
    """The two losses of one optimizer step, as micro-batches of equal weight.

    Each closure reads the live parameters and returns a 0-dim tensor. Batch, noise, timesteps and
    dropout are fixed: two calls of a closure give the same value bit for bit, and batch statistics
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

        Depends on (seed, step) alone, so that a resumed run sees the batches of an undisturbed one.
        """


@dataclass(frozen=True)
class Noised:
    """A batch at its timesteps, for a denoiser.

    `clean`, `noise` and `noisy` are `[B, …]` (latents or pixels), `timesteps` `[B]`. `condition`
    and `anchor` are rows `[B]` of the task's conditions. `condition` is the sample's own condition.
    `anchor` is the condition to show instead, or the empty condition for a sample without an
    anchor; in the set `anchor` it is the forget condition that the sample replaces.
    """

    clean: Tensor
    noise: Tensor
    noisy: Tensor
    timesteps: Tensor
    condition: Tensor
    anchor: Tensor

    def part(self, rows: slice, device: torch.device) -> "Noised":
        """Some rows of the batch, on the device."""
        return Noised(*(getattr(self, item.name)[rows].to(device) for item in fields(self)))


class Denoiser(Task, Protocol):
    """A denoiser under unlearning, with what methods other than LUR need."""

    seed: int
    steps: int
    """Optimizer steps that the run will take."""
    device: torch.device
    conditions: Mapping[str, Tensor]
    """The denoiser's condition inputs, `[P, …]`, a row per condition (`states`: text states)."""
    cache: Any
    """Encoded sets and conditions (`erase.tasks.latents.LatentCache`)."""

    @property
    def model(self) -> Module:
        """The trained denoiser."""

    @property
    def original(self) -> Module:
        """A frozen copy of the model, made at the first access: access it in `prepare`.

        The model itself, where the text encoders are trained instead.
        """

    @property
    def empty(self) -> int:
        """Row of the empty prompt, or of the null class."""

    @property
    def batch_size(self) -> int:
        """Images of each set in one optimizer step, over micro-batches and processes."""

    @property
    def micro_batch_size(self) -> int:
        """Images of each set that go through the model at once."""

    def size(self, subset: str) -> int:
        """Number of images in a set."""

    @property
    def text(self) -> Any:
        """The live text encoders (`erase.tasks.live_text.LiveText`), if the method `reads_text`."""

    def micro_batches(self, rows: Tensor) -> list[Tensor]:
        """This process's micro-batches of a tensor of the global batch `[batch_size, …]`."""

    def batches(self, subset: str, step: int, name: str = "", noise: str = "") -> list[Noised]:
        """This process's micro-batches, drawn from (seed, step); another `name` draws others.

        Another `noise` gives the same images other noise and timesteps.
        """

    def row(self, prompt: str) -> int:
        """Row of a prompt of a set, of an anchor, or of the method's `prompts`."""

    def denoised(
        self,
        step: int,
        *,
        steps: int,
        guidance: float,
        model: Module | None = None,
        under: int | None = None,
        subset: str = "forget",
        name: str = "",
        noise: str = "",
    ) -> list[Noised]:
        """Micro-batches that a model denoised from noise under a set's conditions, part of the way.

        They need no images; the timestep is drawn from (seed, step) for the whole batch. `name` and
        `noise` are those of `batches`.
        """

    def guided(self, batch: Noised, guidance: float, *, model: Module | None = None) -> Tensor:
        """Prediction `[B, …]` with classifier-free guidance; scale 1 is none."""

    def ordered(
        self, subset: str, name: str, *, count: int | None = None, size: int | None = None
    ) -> Iterator[Noised]:
        """The images of a set in order, noised once by (seed, name), the same on every process."""

    @property
    def timestep_count(self) -> int:
        """Number T of timesteps that the model was trained on."""

    def noised_at(self, image: Noised, count: int | None, source: torch.Generator) -> Noised:
        """One image at `count` drawn timesteps, or at every one (None), each with its own noise."""

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Samples at their timesteps, `[B, …]`."""

    def reset(self, seed: int) -> None:
        """Give all weights fresh initial values."""

    def predict(
        self, batch: Noised, condition: Tensor | None = None, *, model: Module | None = None
    ) -> Tensor:
        """Prediction `[B, …]` under a condition (default: the batch's own), under autocast."""

    def predict_reading(self, batch: Noised, prefix: Sequence[Tensor] = ()) -> Tensor:
        """Prediction `[B, …]` under the batch's prompts as the live text encoders read them.

        `prefix` holds vectors of words before each prompt, `[B, K, D]` for each text encoder.
        """

    def target(self, batch: Noised) -> Tensor:
        """The denoiser's training target: noise, v or the sample, depending on the scheduler."""

    def denoising(self, batch: Noised) -> Tensor:
        """Denoising loss of each sample under its own condition, `[B]` (eqs. 12, 14)."""

    def mismatch(self, batch: Noised) -> Tensor:
        """Distance to the anchor's prediction on each sample, `[B]` (eq. 13)."""

    def fixed(self, loss: Loss, name: str, step: int, *, moves_buffers: bool = True) -> Loss:
        """The loss with its dropout fixed by (seed, step, name)."""

    def mean_losses(
        self,
        subset: str,
        step: int,
        each: Callable[[Noised], Tensor],
        name: str = "",
        batches: Sequence[Noised] | None = None,
    ) -> Sequence[Loss]:
        """One closure a micro-batch: the mean of a per-sample loss `[B]`, with fixed dropout.

        The batches are those of the set, unless others are given.
        """


@dataclass(frozen=True)
class Batch:
    """Images `[B, 3, H, W]` in [0, 1] with their labels `[B]`, whole numbers from 0."""

    images: Tensor
    labels: Tensor


Subset = Literal["forget", "retain"]


class ClassifierTask(Task, Protocol):
    """A classifier under unlearning, with what methods other than LUR need."""

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

    def freeze_features(self) -> None:
        """Train the head alone from now on; to be called in `prepare`."""

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

    `Settings` is a frozen dataclass of hyper-parameters derived from `Config`. Each field is an
    `option` with the source's default, a help text and the allowed values; values are converted and
    checked when a `Settings` is made. The loop calls `Method(settings)`. `RECIPES` (optional)
    holds by task (`erase.config.recipes.TASKS`) what the method is run with and which source says
    so, `VARIANTS` what each value of a setting `variant` changes, `SEARCH` the ranges of a search.
    A file may also hold `DenoiserMethod` and `DenoiserSettings`, if the method differs on
    denoisers.

    The task is `Any` here because a method works on its own family's task. The code that builds the
    method checks `families` first.
    """

    families: ClassVar[frozenset[str]]
    """Task families that the method is defined for."""
    settings: Any
    closed_form: ClassVar[bool]
    """Whether `prepare` does everything and no step follows."""
    sets: ClassVar[tuple[str, ...]]
    """Sets of images that a denoiser's run has to have."""
    images: bool
    """Whether it looks at these images, or at their captions alone; may depend on settings."""
    prompts: Sequence[str]
    """Prompts that have to be encoded beside those of the sets."""
    reads_text: ClassVar[bool]
    """Whether it needs the text encoders in training, and can train them (`--trainable text`)."""

    def check(self, model: Module, family: str) -> None:
        """Raise InputError for a model that the method cannot work on; it may have no weights."""

    def prepare(self, task: Any) -> None:
        """Called once before the first step: masks, trimming, importance weights."""

    def step(self, task: Any, step: int, reduce: Reduce | None) -> Stats:
        """Leave the gradient of step `step` in every parameter's `.grad`; return its statistics.

        `reduce` averages a tensor over processes; None in a single process.
        """

    def after_step(self, task: Any) -> None:
        """Called after each optimizer step, e.g. to put masked weights back."""

    def finish(self, task: Any) -> None:
        """Called after the last step, e.g. to drop a head that was only for training."""

    def state(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint has to hold; a resumed run calls `prepare`, then `load_state`.

        Only what `prepare` cannot make again from the original model.
        """

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned at a checkpoint."""
