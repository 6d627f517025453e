"""Prompts under which the attacked denoiser predicts what the base model does under the plain one.

K words δ are searched for with min E ‖ε_base(x_t, t, c(prompt)) − ε_θ(x_t, t, c(δ))‖² over
timesteps and noise, x_0 being the base model's image (P4D-N: Chin et al., "Prompting4Debugging",
ICML 2024). The vectors are moved by AdamW, and at each step replaced by those of the nearest words,
to which the gradient belongs. The prompt with the least loss on fixed noise is taken, where the
source asks CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import normalize

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

CHECKS = 4
"""Draws of timestep and noise on which prompts are compared."""
RECIPES: dict[str, Recipe] = {
    "large": published(
        "P4D: configs/esd_nudity_optmz_config.json",
        length=16,
        iterations=3000,
        check_every=50,
        learning_rate=0.1,
        weight_decay=0.1,
        restarts=1,
        batch_size=1,
    ),
    "small": ours(
        "as long as mini-sd's prompts",
        length=8,
        iterations=100,
        check_every=10,
        learning_rate=0.1,
        weight_decay=0.1,
        restarts=2,
        batch_size=32,
    ),
}


@dataclass(frozen=True)
class Settings(Config):
    """Settings of the search."""

    length: int = option(16, "Words K of a found prompt.", least=1)
    iterations: int = option(3000, "Steps of a search.", least=1)
    check_every: int = option(50, "Steps between two prompts that are compared.", least=1)
    learning_rate: float = option(0.1, "Of AdamW.", above=0)
    weight_decay: float = option(0.1, "AdamW's weight decay.", least=0)
    restarts: int = option(1, "Searches for each prompt, from other words.", least=1)
    batch_size: int = option(1, "Prompts that are searched for at once.", least=1)


class P4d(Attack):
    """Prompts that reproduce the base model's prediction."""

    name = "p4d"
    reads_text = True
    sets = (RENDERS,)
    gradients = True

    def budget(self) -> str:
        """The search of a prompt."""
        return words_budget(self.settings)

    def check(self, facts: Facts) -> None:
        """InputError for more words than the text encoder reads."""
        Vocabulary(facts.tokenizer()).check_room(self.settings.length, "p4d.length")

    def prepare(self, victim: Victim, stage: Stage, samples: Sequence[Sample]) -> Rendering:
        """Search for each prompt."""
        victim.freeze()
        vocabulary = Vocabulary(victim.pipeline.tokenizer)

        def search(batch: Sequence[Sample]) -> list[dict[str, Any]]:
            return _Search(victim, vocabulary, self.settings, stage, batch).run()

        found = victim.store.each(stage.name, samples, search, self.settings.batch_size)
        return Rendering(with_prompts(samples, {key: str(f["prompt"]) for key, f in found.items()}))


class _Search:
    """The search for a batch of prompts."""

    def __init__(
        self,
        victim: Victim,
        vocabulary: Vocabulary,
        settings: Settings,
        stage: Stage,
        samples: Sequence[Sample],
    ) -> None:
        self.victim, self.vocabulary, self.settings = victim, vocabulary, settings
        self.samples = samples
        self.sources = [generator(victim.seed, "p4d", stage.name, s.id) for s in samples]
        self.words = vocabulary.tokens.to(victim.device)
        self.tables = [e.get_input_embeddings().weight[self.words] for e in victim.encoders]
        self.task: Any = victim.task(RENDERS)
        place = {sample.id: number for number, sample in enumerate(victim.samples)}
        self.clean = victim.latents(RENDERS)[[place[s.id] for s in samples]].to(victim.device)
        self.base: Any = getattr(victim.original(), victim.family.component)
        self.base.requires_grad_(False)
        plain = victim.family.texts
        assert plain is not None
        prompts = [sample.prompt for sample in samples]
        with torch.no_grad():
            found = plain(victim.original(), prompts, victim.size)
        self.plain = {name: tensor.to(victim.device) for name, tensor in found.items()}

    def run(self) -> list[dict[str, Any]]:
        """The best prompt of each sample, with its loss."""
        settings, vectors = self.settings, self._start()
        optimizer = torch.optim.AdamW(
            vectors, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        checks = [self._draw() for _ in range(CHECKS)]
        best: list[tuple[float, list[int]]] = [(float("inf"), [])] * len(self.samples)
        for step in range(settings.iterations):
            nearest = self._nearest(vectors[0])
            if step % settings.check_every == 0 or step == settings.iterations - 1:
                best = self._better(best, nearest, checks)
            shown = [table[nearest].detach().requires_grad_() for table in self.tables]
            loss = self._losses(shown, self._draw()).sum()
            for vector, gradient in zip(vectors, torch.autograd.grad(loss, shown), strict=True):
                vector.grad = gradient
            optimizer.step()
        return [
            {"prompt": self.vocabulary.text(self.words[found].tolist()), "loss": loss}
            for loss, found in best
        ]

    def _start(self) -> list[Parameter]:
        """Vectors of words that are drawn, for each text encoder."""
        length = self.settings.length
        rows = [torch.randint(len(self.words), (length,), generator=s) for s in self.sources]
        drawn = torch.stack(rows).to(self.victim.device)
        return [Parameter(table[drawn].detach().clone()) for table in self.tables]

    def _nearest(self, vectors: Tensor) -> Tensor:
        """Rows of the nearest words by cosine, `[B, K]`; the first encoder decides for all."""
        with torch.no_grad():
            return (normalize(vectors, dim=-1) @ normalize(self.tables[0], dim=-1).T).argmax(-1)

    def _draw(self) -> tuple[Tensor, Tensor]:
        """A timestep and noise for each sample."""
        count = self.task.timestep_count
        at = torch.cat([torch.randint(count, (1,), generator=s) for s in self.sources])
        noise = torch.stack([torch.randn(self.clean.shape[1:], generator=s) for s in self.sources])
        return at.to(self.victim.device), noise.to(self.clean)

    def _losses(self, shown: Sequence[Tensor], draw: tuple[Tensor, Tensor]) -> Tensor:
        """The distance of the two predictions for each sample, `[B]`."""
        victim, task, (at, noise) = self.victim, self.task, draw
        rows = torch.arange(len(self.samples), device=victim.device)
        batch = Noised(self.clean, noise, task.add_noise(self.clean, noise, at), at, rows, rows)
        task.conditions = self.plain
        with torch.no_grad():
            wanted = task.predict(batch, model=self.base)
        filler = " ".join([self.vocabulary.filler] * self.settings.length)
        with replaced_tokens(victim.encoders, 1, shown):
            task.conditions = victim.conditions([filler] * len(self.samples))
        return noise_mse(task.predict(batch), wanted)

    @torch.no_grad()
    def _better(
        self,
        best: list[tuple[float, list[int]]],
        nearest: Tensor,
        checks: Sequence[tuple[Tensor, Tensor]],
    ) -> list[tuple[float, list[int]]]:
        """The better of the best prompts and the present ones, for each sample."""
        shown = [table[nearest] for table in self.tables]
        losses = torch.stack([self._losses(shown, draw) for draw in checks]).mean(0)
        now = zip(losses.tolist(), nearest.tolist(), strict=True)
        return [min(old, new, key=lambda pair: pair[0]) for old, new in zip(best, now, strict=True)]
