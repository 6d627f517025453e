"""AdvUnlearn: ESD trained against words that bring the concept back (Zhang et al., 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter

from erase.config.base import Config
from erase.config.families import TEXT_TO_IMAGE
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import mismatch_mse
from erase.core.rng import generator
from erase.tasks.denoising import forget_gradient, two_gradients, weighted
from erase.tasks.method import BaseMethod, put_gradients
from erase.tasks.protocol import Denoiser, Loss, Noised, Reduce

_COMMAND: dict[str, Any] = {
    "learning_rate": 1e-5,
    "max_train_steps": 1000,
    "train_batch_size": 1,
    "trainable": "text",
    "samples": "denoised",
    "retain_batches": 5,
    "retain_weight": 0.3,
}
RECIPES: dict[str, Recipe] = {
    "nudity": published("AdvUnlearn: README, multi-step attack; AdvUnlearn.py", **_COMMAND),
    "class": ours("AdvUnlearn's for nudity, the only one in its public code", **_COMMAND),
    "style": ours("AdvUnlearn's for nudity, the only one in its public code", **_COMMAND),
    "small": ours(
        "the better of two rates on mini-sd's digit nine: benchmarks/diffusion_tuning.py",
        trainable="text",
        learning_rate=3e-4,
        retain_weight=1.0,
        warmup=30,
        attack_steps=3,
        attack_rate=0.02,
    ),
}


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of AdvUnlearn."""

    guidance: float = option(1.0, "Negative guidance η (> 0).", above=0)
    retain_weight: float = option(0.3, "Weight γ of the retain loss (≥ 0).", least=0)
    retain_batches: int = option(
        1,
        "Batches of the retain set in a step; the source has 5 prompts for one of the concept.",
        least=1,
    )
    warmup: int = option(200, "Steps before the first attack, with the plain prompts.", least=0)
    attack: str = option(
        "pgd",
        "The attacker's steps, both by Adam: pgd, along the gradient; fast-at, along its sign.",
        ("pgd", "fast-at"),
    )
    attack_steps: int = option(30, "Steps of the attack before each step of training.", least=1)
    attack_rate: float = option(1e-3, "Rate of the attack.", above=0)
    length: int = option(1, "Words K in front of the prompt.", least=1, most=10)
    samples: str = option(
        "noised",
        "x_t: denoised from pure noise under the plain prompts by the model under training, as in"
        " the source, which needs no images; or noised, images at a random timestep.",
        ("noised", "denoised"),
    )
    sampling_steps: int = option(50, "Steps of that denoising, to the image.", least=1)
    sampling_guidance: float = option(3.0, "Guidance scale of that denoising (≥ 1).", least=1)


class Method(BaseMethod):
    """MSE(ε_θ(x_t|[δ*, c]), ε_∅ − η (ε_c − ε_∅)) + γ MSE(ε_θ(x_t|c_r), ε_0(x_t|c_r)).

    ε_∅ and ε_c are the original's predictions, c_r retain prompts. The attacker's words
    δ* = argmin MSE(ε_θ(x_t|[δ, c]), ε_c) are vectors in front of the prompt, which begin at random
    words in each step and take `attack_steps` of Adam, each at noise of its own. The source's code
    never clears the gradient of δ between these steps and leaves the last one out; here each step
    has its own gradient, and all count.

    `--trainable text` trains the text encoder, as the source does by default; any other choice the
    denoiser.
    """

    families: ClassVar = frozenset({TEXT_TO_IMAGE})
    reads_text: ClassVar[bool] = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.images = settings.samples == "noised"

    def prepare(self, task: Denoiser) -> None:
        """Keep a frozen copy of the original, if the denoiser is trained."""
        task.original  # noqa: B018  # copied when it is first read

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of the two terms, in `.grad`."""

        def forgetting(batch: Noised, prefix: Sequence[Tensor]) -> Loss:
            def loss() -> Tensor:
                found = task.predict_reading(batch, prefix)
                return mismatch_mse(found, self.target(task, batch)).mean()

            return task.fixed(loss, "forget", step, moves_buffers=False)

        prefixes = self.attacked(task, step)
        losses = list(map(forgetting, self._samples(task, "forget", step), prefixes))
        if self.settings.retain_weight == 0:
            gradient, stats = forget_gradient(task, losses, reduce)
            put_gradients(task, gradient)
            return stats
        retain_batches = [
            batch
            for number in range(self.settings.retain_batches)
            for batch in self._samples(task, "retain", step, f"part-{number}" if number else "")
        ]
        kept = task.mean_losses(
            "retain", step, lambda b: self.kept(task, b), batches=retain_batches
        )
        retain, forget, stats = two_gradients(task, kept, losses, reduce)
        put_gradients(task, weighted(forget, retain, self.settings.retain_weight))
        return stats

    def target(self, task: Denoiser, batch: Noised) -> Tensor:
        """ESD's target for samples of the concept, ``[B, …]``, without a gradient."""
        with torch.no_grad():
            empty = torch.full_like(batch.condition, task.empty)
            unguided = task.predict(batch, empty, model=task.original)
            concept = task.predict(batch, model=task.original)
            target: Tensor = unguided - self.settings.guidance * (concept - unguided)
        return target

    def kept(self, task: Denoiser, batch: Noised) -> Tensor:
        """Distance to the original's prediction under the same prompt, ``[B]``."""
        with torch.no_grad():
            original = task.predict(batch, model=task.original)
        return mismatch_mse(task.predict_reading(batch), original)

    def attacked(self, task: Denoiser, step: int) -> list[Sequence[Tensor]]:
        """The attacker's words for each micro-batch, ``[B, K, D]`` for each text encoder.

        They depend on the weights and on (seed, step); none before the warm-up is over.
        """
        settings = self.settings
        source = generator(task.seed, step, "attacker's words")
        words = torch.randint(task.text.words, (task.batch_size, settings.length), generator=source)
        starts = [task.text.vectors(rows) for rows in task.micro_batches(words)]
        if step < settings.warmup:
            return [()] * len(starts)
        prefixes = [[Parameter(vector) for vector in start] for start in starts]
        optimizers = [torch.optim.Adam(prefix, lr=settings.attack_rate) for prefix in prefixes]
        for number in range(settings.attack_steps):
            batches = self._samples(task, "forget", step, noise=f"attack-{number}")
            for batch, prefix, optimizer in zip(batches, prefixes, optimizers, strict=True):
                fails = partial(self._failure, task, batch, prefix)
                loss = task.fixed(fails, f"attack-{number}", step, moves_buffers=False)()
                for vector, gradient in zip(prefix, torch.autograd.grad(loss, prefix), strict=True):
                    vector.grad = gradient.sign() if settings.attack == "fast-at" else gradient
                optimizer.step()
        return [[vector.detach() for vector in prefix] for prefix in prefixes]

    def _failure(self, task: Denoiser, batch: Noised, prefix: Sequence[Tensor]) -> Tensor:
        """What the attacker minimises: the distance to the concept that the original shows.

        A sum, so that the words of a sample do not depend on the others in its micro-batch.
        """
        with torch.no_grad():
            concept = task.predict(batch, model=task.original)
        return mismatch_mse(task.predict_reading(batch, prefix), concept).sum()

    def _samples(
        self, task: Denoiser, subset: str, step: int, name: str = "", noise: str = ""
    ) -> list[Noised]:
        """Micro-batches of a set's prompts: other ones for a `name`, other noise for a `noise`."""
        if self.images:
            return task.batches(subset, step, name, noise)
        return task.denoised(
            step,
            steps=self.settings.sampling_steps,
            guidance=self.settings.sampling_guidance,
            subset=subset,
            name=name,
            noise=noise,
        )
