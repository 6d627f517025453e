"""A diffusion denoiser under unlearning: batches drawn from (seed, step), and the paper's losses.

Families differ little, and their own files hold the differences: the denoiser's condition inputs
(`arguments`: text states, pooled text, class labels), the noise (`timesteps`, `add_noise`,
`target`) and, for a transformer, the call (`forward`). Everything is encoded once, so that no VAE
and no text encoder is in memory during training, unless a method reads text anew (`text`). Training
uses no guidance.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import Module, Parameter

from erase.core.meta import Mode
from erase.core.objectives import mismatch_mse, noise_mse
from erase.core.params import FixedLoss
from erase.core.rng import batch_indices, derive_seed, generator
from erase.errors import InputError
from erase.runs.processes import Shard
from erase.tasks.latents import EncodedImages, LatentCache
from erase.tasks.live_text import LiveText
from erase.tasks.protocol import Loss, Noised, StepLosses


@dataclass
class DenoiserTask(ABC):
    """A denoiser under unlearning; see `erase.tasks.protocol.Denoiser` for what methods may use.

    Forget loss (eq. 13): ‖ε_θ(x_t|c') − ε_θ(x_t|c)‖² on forget images with condition c and anchor
    c'. The anchor's prediction is detached unless `target_grad`; with `frozen_anchor` it comes
    from the original model. Retain loss (eqs. 12, 14): the denoising loss on retain images.

    The whole global batch of a step is drawn from (seed, step) by every process, which then takes
    its own slice: N processes see what one process with N micro-batches sees.
    """

    model: Module
    scheduler: Any
    cache: LatentCache
    parameters: Mapping[str, Parameter]
    shard: Shard
    seed: int
    steps: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    condition_dropout: float = 0.1
    target_grad: bool = False
    frozen_anchor: bool = False
    precision: Literal["bf16"] | None = None
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    text: LiveText | None = None

    family: ClassVar[str]
    meta_mode: ClassVar[Mode] = "hvp"

    def __post_init__(self) -> None:
        self.conditions = {
            name: tensor.to(self.device) for name, tensor in self.cache.conditions.items()
        }
        if self.frozen_anchor:
            self.original  # noqa: B018  # made now, before the first step

    @abstractmethod
    def arguments(self, condition: Tensor) -> dict[str, Any]:
        """The denoiser's arguments beside the noisy sample and the timestep.

        `condition[B]` are rows of `conditions`.
        """

    @property
    def empty(self) -> int:
        """Row of the empty prompt, or of the null class."""
        return self.cache.empty

    def row(self, prompt: str) -> int:
        """The row of a prompt; InputError when it was not encoded."""
        if prompt not in self.cache.prompts:
            raise InputError(
                f"The prompt {prompt!r} is not among those that were encoded.",
                "Start the run anew, with another --output or --overwrite.",
            )
        return self.cache.prompts[prompt]

    @cached_property
    def original(self) -> Module:
        """A frozen copy of the model, made at the first access: access it in `prepare`.

        The model itself where none of its weights is trained.
        """
        if not any(p.requires_grad for p in self.model.parameters()):
            return self.model
        return deepcopy(self.model).requires_grad_(False).eval()

    @cached_property
    def captions(self) -> Mapping[int, str]:
        """The prompt of each row."""
        return {row: prompt for prompt, row in self.cache.prompts.items()}

    @cached_property
    def counterparts(self) -> Tensor:
        """For each condition, the forget conditions that it replaces, ``[P, W]``.

        A condition that replaces none gets all forget conditions.
        """
        forgotten = self.cache.sets["forget"].condition.unique()
        forget_anchors = self.cache.anchors[forgotten]
        rows = [
            [int(c) for c, anchors in zip(forgotten, forget_anchors, strict=True) if row in anchors]
            or forgotten.tolist()
            for row in range(len(self.cache.anchors))
        ]
        width = max(len(row) for row in rows)
        return torch.tensor([[row[k % len(row)] for k in range(width)] for row in rows])

    def reset(self, seed: int) -> None:
        """Give all weights fresh initial values, drawn from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            fresh = type(self.model).from_config(self.model.config)  # type: ignore[attr-defined]
        self.model.load_state_dict(fresh.state_dict())

    @property
    def shape(self) -> torch.Size:
        """Shape ``[C, h, w]`` of a sample."""
        return self.cache.sets["forget"].mean.shape[1:]

    def sampler(self) -> Any:
        """A fresh scheduler that denoises: DDIM over the model's noise schedule."""
        return DDIMScheduler.from_config(self.scheduler.config)

    @property
    def batch_size(self) -> int:
        """Images of each set in one optimizer step, over micro-batches and processes."""
        return self.shard.total

    @property
    def micro_batch_size(self) -> int:
        """Images of each set in a micro-batch of this process."""
        return self.shard.batch_size

    def size(self, subset: str) -> int:
        """Number of images in a set."""
        return len(self.cache.sets[subset])

    def micro_batches(self, rows: Tensor) -> list[Tensor]:
        """This process's micro-batches of a tensor of the global batch, on the device."""
        return [rows[part].to(self.device) for part in self.shard.slices()]

    def batches(self, subset: str, step: int, name: str = "", noise: str = "") -> list[Noised]:
        """This process's micro-batches of a set, noised, on the device; drawn from (seed, step).

        Another `name` draws others for the same step; another `noise` gives the same images under
        the same conditions other noise and timesteps. Retain conditions are replaced by the empty
        one at the rate `condition_dropout`.
        """
        batch = self.draw(subset, step, name, noise)
        return [batch.part(rows, self.device) for rows in self.shard.slices()]

    @torch.no_grad()
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
        """This process's micro-batches of samples that a model denoised from pure noise.

        They are denoised with guidance up to a timestep of the sampler that is drawn from (seed,
        step) for the whole batch. No images are needed.

        Args:
            step: optimizer step.
            steps: of the sampler from pure noise to an image.
            guidance: scale s of ε_∅ + s(ε_c − ε_∅); 1 is none.
            model: default: the model under training.
            under: row of the condition to denoise under; default: each sample's own, a condition
                of the set.
            subset: the set whose conditions are drawn.
            name: another one draws other conditions for the same step.
            noise: another one draws other noise and another timestep under the same conditions.

        Returns:
            Batches whose `noisy` is the sample at `timesteps`; `clean` and `noise` are the noise
            that it began as.
        """
        rows = self.cache.sets[subset].condition
        total = self.shard.total
        stream = _stream(subset, "denoised", name)
        condition = rows[batch_indices(len(rows), total, step, self.seed, stream)]
        stream = _stream("" if subset == "forget" else subset, "denoised", name, noise)
        source = generator(self.seed, step, stream)
        start = torch.randn((total, *self.shape), generator=source)
        start = start.to(self.cache.sets["forget"].mean.dtype)
        stop = derive_seed(self.seed, step, f"{stream} until") % steps
        table = self.cache.anchors
        choice = torch.randint(table.shape[1], (total,), generator=source)
        whole = Noised(start, start, start, torch.zeros(total), condition, table[condition, choice])
        batches = []
        for part in self.shard.slices():
            batch = whole.part(part, self.device)
            rows = batch.condition if under is None else torch.full_like(batch.condition, under)
            shown = self._denoise(replace(batch, condition=rows), steps, stop, guidance, model)
            batches.append(replace(shown, condition=batch.condition))
        return batches

    def _denoise(
        self, batch: Noised, steps: int, stop: int, guidance: float, model: Module | None
    ) -> Noised:
        sampler = self.sampler()
        sampler.set_timesteps(steps, device=self.device)
        noisy = batch.noise * getattr(sampler, "init_noise_sigma", 1.0)
        for number, timestep in enumerate(sampler.timesteps[: stop + 1]):
            batch = replace(batch, noisy=noisy, timesteps=timestep.expand(len(noisy)))
            if number == stop:
                break
            prediction = self.guided(batch, guidance, model=model).to(noisy.dtype)
            noisy = sampler.step(prediction, timestep, noisy, return_dict=False)[0]
        return batch

    def guided(self, batch: Noised, guidance: float, *, model: Module | None = None) -> Tensor:
        """The prediction ε_∅ + s(ε_c − ε_∅), ``[B, …]``; with s = 1 that under the condition."""
        prediction = self.predict(batch, model=model)
        if guidance == 1:
            return prediction
        empty = self.predict(batch, torch.full_like(batch.condition, self.empty), model=model)
        guided: Tensor = empty + guidance * (prediction - empty)
        return guided

    def draw(self, subset: str, step: int, name: str = "", noise: str = "") -> Noised:
        """The global batch of a step, over all processes, on the CPU."""
        images, total = self.cache.sets[subset], self.shard.total
        index = batch_indices(len(images), total, step, self.seed, _stream(subset, name))
        batch = self._noised(subset, index, step, _stream(name, noise))
        if subset == "retain":
            drop = generator(self.seed, step, _stream("dropout", name))
            dropped = torch.rand(total, generator=drop) < self.condition_dropout
            batch.condition[dropped] = self.empty
        return batch

    def ordered(
        self, subset: str, name: str, *, count: int | None = None, size: int | None = None
    ) -> Iterator[Noised]:
        """The images of a set in order, noised once by (seed, name), for `prepare`.

        Every process sees all of them, and no condition is dropped, so the result depends neither
        on processes nor on micro-batches.

        Args:
            count: at most this many images; default: all.
            size: images in a batch; default: a micro-batch's.
        """
        total = min(self.size(subset), count or self.size(subset))
        size = size or self.shard.batch_size
        images = self._noised(subset, torch.arange(total), 0, f"{name}/ordered")
        for start in range(0, total, size):
            yield images.part(slice(start, start + size), self.device)

    @property
    def timestep_count(self) -> int:
        """Number T of timesteps that the model was trained on."""
        return int(self.scheduler.config.num_train_timesteps)

    def noised_at(self, image: Noised, count: int | None, source: torch.Generator) -> Noised:
        """One image at many timesteps, each with noise of its own, ``[n, …]``.

        Args:
            image: a batch of one.
            count: how many timesteps are drawn; None: every one of them, in order.
            source: of noise and timesteps.
        """
        if count is None:
            timesteps = torch.arange(self.timestep_count)
        else:
            timesteps = self.timesteps(count, source)
        n = len(timesteps)
        clean = image.clean.cpu().expand(n, *image.clean.shape[1:])
        noise = torch.randn(clean.shape, generator=source).to(clean)
        rows = image.condition.cpu().expand(n)
        noisy = self.add_noise(clean, noise, timesteps)
        return Noised(clean, noise, noisy, timesteps, rows, image.anchor.cpu().expand(n))

    def _noised(self, subset: str, index: Tensor, step: int, name: str) -> Noised:
        """These images of a set at drawn timesteps, on the CPU."""
        images = self.cache.sets[subset]
        source = generator(self.seed, step, _stream(subset, name))
        clean = self.clean(images, index, source)
        noise = torch.randn(clean.shape, generator=source)
        timesteps = self.timesteps(len(index), source)
        condition = images.condition[index].clone()
        # An anchor's image is paired with the forget conditions that its anchor replaces.
        table = self.counterparts if subset == "anchor" else self.cache.anchors
        choice = torch.randint(
            table.shape[1],
            (len(index),),
            generator=generator(self.seed, step, _stream("anchor", name)),
        )
        anchor = table[condition, choice]
        noisy = self.add_noise(clean, noise, timesteps)
        return Noised(clean, noise, noisy, timesteps, condition, anchor)

    def clean(self, images: EncodedImages, index: Tensor, source: torch.Generator) -> Tensor:
        """Samples ``[B, …]`` without noise: latents drawn from the VAE's posterior."""
        mean = images.mean[index]
        return mean + images.std[index] * torch.randn(mean.shape, generator=source)

    def timesteps(self, count: int, source: torch.Generator) -> Tensor:
        """Timesteps `[count]`, drawn evenly from those that the model was trained on."""
        return torch.randint(self.scheduler.config.num_train_timesteps, (count,), generator=source)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Samples at their timesteps, ``[B, …]``."""
        noisy: Tensor = self.scheduler.add_noise(clean, noise, timesteps)
        return noisy

    def target(self, batch: Noised) -> Tensor:
        """The training target, ``[B, …]``: noise, v or the sample, depending on the scheduler."""
        kind = self.scheduler.config.prediction_type
        if kind == "epsilon":
            return batch.noise
        if kind == "v_prediction":
            target: Tensor = self.scheduler.get_velocity(batch.clean, batch.noise, batch.timesteps)
            return target
        if kind == "sample":
            return batch.clean
        raise InputError(
            f"The scheduler predicts {kind!r}, which is not known.",
            "Known: epsilon, v_prediction, sample.",
        )

    def predict(
        self, batch: Noised, condition: Tensor | None = None, *, model: Module | None = None
    ) -> Tensor:
        """The denoiser's prediction ``[B, …]`` under a condition, under the task's autocast.

        Args:
            batch: the noisy samples.
            condition: rows ``[B]``; default: the batch's own.
            model: default: the model under training.
        """
        rows = batch.condition if condition is None else condition
        with self.autocast():
            return self.forward(model or self.model, batch.noisy, batch.timesteps, rows)

    def predict_reading(self, batch: Noised, prefix: Sequence[Tensor] = ()) -> Tensor:
        """The prediction ``[B, …]`` under the batch's prompts as the text encoders read them now.

        Args:
            batch: the noisy samples.
            prefix: ``[B, K, D]`` for each text encoder: vectors of K words before each prompt.
        """
        assert self.text is not None  # a method that `reads_text` is given it
        prompts = [self.captions[row] for row in batch.condition.tolist()]
        live = copy(self)
        with self.autocast():
            live.conditions = self.text.conditions(prompts, prefix)
        return live.predict(batch, torch.arange(len(prompts), device=self.device))

    def forward(self, model: Module, noisy: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Prediction ``[B, …]`` of a model of the family for noisy samples under condition rows."""
        prediction: Tensor = model(
            noisy, timesteps, return_dict=False, **self.arguments(condition)
        )[0]
        return prediction

    def denoising(self, batch: Noised) -> Tensor:
        """The denoising loss of each sample under its own condition, ``[B]`` (eqs. 12, 14)."""
        return noise_mse(self.predict(batch), self.target(batch))

    def mismatch(self, batch: Noised) -> Tensor:
        """Distance to the anchor's prediction on each sample, ``[B]`` (eq. 13)."""
        anchor_model = self.original if self.frozen_anchor else self.model
        with torch.set_grad_enabled(self.target_grad and not self.frozen_anchor):
            anchor_prediction = self.predict(batch, batch.anchor, model=anchor_model)
        return mismatch_mse(self.predict(batch), anchor_prediction, detach=not self.target_grad)

    def fixed(self, loss: Loss, name: str, step: int, *, moves_buffers: bool = True) -> FixedLoss:
        """The loss with its dropout fixed by (seed, step, name)."""
        seed = derive_seed(self.seed, step, f"{name}-dropout")
        return FixedLoss(self.model, loss, seed, moves_buffers=moves_buffers)

    def mean_losses(
        self,
        subset: str,
        step: int,
        each: Callable[[Noised], Tensor],
        name: str = "",
        batches: Sequence[Noised] | None = None,
    ) -> Sequence[Loss]:
        """One closure a micro-batch: the mean of a per-sample loss ``[B]``, with fixed dropout.

        The batches are those of the set, unless others are given.
        """
        return [
            self.fixed(
                lambda batch=batch: each(batch).mean(),  # type: ignore[misc]
                subset,
                step,
                moves_buffers=subset == "retain",
            )
            for batch in batches or self.batches(subset, step, name)
        ]

    def losses(self, step: int) -> StepLosses:
        """The paper's two losses: this process's micro-batches of optimizer step `step`."""
        return StepLosses(
            retain=self.mean_losses("retain", step, self.denoising),
            forget=self.mean_losses("forget", step, self.mismatch),
        )


def _stream(*parts: str) -> str:
    """Name of a random stream."""
    return "/".join(part for part in parts if part)
