"""Words in front of each prompt that make the attacked denoiser predict the noise of its image.

The base model's image x_0 of the prompt is the target. K words δ are searched for with
min E ‖ε − ε_θ(x_t, t, c([δ, prompt]))‖² at a fixed timestep t: the denoiser is its own classifier
(UnlearnDiffAtk: Zhang et al., ECCV 2024). Each word is a distribution over the vocabulary; a step
draws words from it, takes Adam's step with the clipped gradient, and projects onto the simplex. A
restart takes another t, as the source does; here it also begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import hardtanh, one_hot

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.objectives import noise_mse
from erase.core.rng import generator
from erase.scoring.samples import Sample
from erase.tasks.attack import (
    RENDERS,
    Attack,
    Facts,
    Rendering,
    Stage,
    Victim,
    with_prompts,
    words_budget,
)
from erase.tasks.prompts import Vocabulary, replaced_tokens
from erase.tasks.protocol import Noised

RECIPES: dict[str, Recipe] = {
    "large": published(
        "Diffusion-MU-Attack: configs/nudity/text_grad_esd_nudity_classifier.json, 50 timesteps",
        length=5,
        iterations=40,
        learning_rate=0.01,
        weight_decay=0.1,
        restarts=50,
        batch_size=1,
    ),
    "small": ours(
        "fewer words, for prompts of 14; the rate is larger, as the words are few",
        length=3,
        iterations=40,
        learning_rate=0.05,
        weight_decay=0.0,
        restarts=2,
        batch_size=32,
    ),
}


@dataclass(frozen=True)
class Settings(Config):
    """Settings of the search."""

    length: int = option(5, "Words K in front of a prompt.", least=1)
    iterations: int = option(40, "Steps of a search.", least=1)
    learning_rate: float = option(0.01, "Of Adam.", above=0)
    weight_decay: float = option(0.1, "Adam's weight decay.", least=0)
    restarts: int = option(50, "Searches for each prompt, each at another timestep.", least=1)
    batch_size: int = option(1, "Prompts that are searched for at once.", least=1)


class UnlearnDiffAtk(Attack):
    """Adversarial words in front of the prompts."""

    name = "unlearndiffatk"
    reads_text = True
    sets = (RENDERS,)
    gradients = True

    def budget(self) -> str:
        """The search of a prompt."""
        return words_budget(self.settings)

    def check(self, facts: Facts) -> None:
        """InputError for more words than the text encoder reads."""
        Vocabulary(facts.tokenizer()).check_room(self.settings.length, "unlearndiffatk.length")

    def prepare(self, victim: Victim, stage: Stage, samples: Sequence[Sample]) -> Rendering:
        """Search for each prompt at the restart's timestep."""
        victim.freeze()
        vocabulary = Vocabulary(victim.pipeline.tokenizer)
        task: Any = victim.task(RENDERS)
        stride = task.timestep_count / self.settings.restarts
        timestep = int((int(stage.name.rpartition("-")[2]) + 0.5) * stride)
        place = {sample.id: number for number, sample in enumerate(victim.samples)}
        latents = victim.latents(RENDERS)

        def search(batch: Sequence[Sample]) -> list[dict[str, Any]]:
            clean = latents[[place[sample.id] for sample in batch]].to(victim.device)
            return _search(victim, task, vocabulary, self.settings, (batch, clean, timestep))

        found = victim.store.each(stage.name, samples, search, self.settings.batch_size)
        return Rendering(with_prompts(samples, {key: str(f["prompt"]) for key, f in found.items()}))


def _search(
    victim: Victim,
    task: Any,
    vocabulary: Vocabulary,
    settings: Settings,
    target: tuple[Sequence[Sample], Tensor, int],
) -> list[dict[str, Any]]:
    """The likeliest words for each prompt of a batch, with the loss of the last step."""
    samples, clean, timestep = target
    words = vocabulary.tokens.to(victim.device)
    shape = (len(samples), settings.length, len(words))
    chances = Parameter(torch.full(shape, 1 / len(words), device=victim.device))
    optimizer = torch.optim.Adam(
        [chances], lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    sources = [generator(victim.seed, "unlearndiffatk", timestep, s.id) for s in samples]
    filler = " ".join([vocabulary.filler] * settings.length)
    prompts = [f"{filler} {sample.prompt}".rstrip() for sample in samples]
    rows = torch.arange(len(samples), device=victim.device)
    at = torch.full((len(samples),), timestep, device=victim.device)
    losses = torch.zeros(len(samples))
    for _ in range(settings.iterations):
        noise = torch.stack([torch.randn(clean.shape[1:], generator=s) for s in sources])
        noise = noise.to(clean)
        drawn = [
            torch.multinomial(c, 1, generator=s)
            for c, s in zip(chances.detach().cpu(), sources, strict=True)
        ]
        chosen = one_hot(torch.stack(drawn)[..., 0], len(words)).to(chances)
        hard = (chosen - chances).detach() + chances  # drawn forward, straight through backward
        vectors = [hard @ e.get_input_embeddings().weight[words] for e in victim.encoders]
        with replaced_tokens(victim.encoders, 1, vectors):
            task.conditions = victim.conditions(prompts)
        batch = Noised(clean, noise, task.add_noise(clean, noise, at), at, rows, rows)
        each = noise_mse(task.predict(batch), task.target(batch))
        (gradient,) = torch.autograd.grad(each.sum(), [chances])
        chances.grad = hardtanh(gradient)
        optimizer.step()
        with torch.no_grad():
            chances.copy_(on_simplex(chances))
        losses = each.detach().cpu()
    best = vocabulary.tokens[chances.detach().argmax(-1).cpu()]
    return [
        {"prompt": f"{vocabulary.text(found)} {sample.prompt}".rstrip(), "loss": float(loss)}
        for sample, found, loss in zip(samples, best.tolist(), losses, strict=True)
    ]


def on_simplex(values: Tensor) -> Tensor:
    """The nearest point with entries of at least 0 that sum to 1, along the last dimension.

    By sorting (Duchi et al. 2008); the source finds the same point by bisection.
    """
    ranked = values.sort(-1, descending=True).values
    excess = ranked.cumsum(-1) - 1
    count = torch.arange(1, values.shape[-1] + 1, device=values.device)
    kept = (ranked - excess / count > 0).sum(-1, keepdim=True)
    shift = excess.gather(-1, kept - 1) / kept
    return (values - shift).clamp(min=0)
