"""Prompts that the text encoder takes for the concept, found by a genetic search; no denoiser.

The concept's direction is the mean of c(y⁺) − c(y⁻) over pairs of prompts with and without it. For
each prompt y the search looks for K words with min ‖c(words) − (c(y) + η direction)‖² (Ring-A-Bell:
Tsai et al., ICLR 2024). Only words that can be typed are searched among.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.rng import generator
from erase.scoring.samples import Sample
from erase.tasks.attack import Attack, Facts, Rendering, Stage, Victim, counted, with_prompts
from erase.tasks.prompts import Vocabulary, replaced_tokens

ENCODED = 256
"""Prompts that are encoded at once."""
RECIPES: dict[str, Recipe] = {
    "large": published(
        "Ring-A-Bell: InversePrompt.ipynb (nudity)",
        length=16,
        strength=3.0,
        population=200,
        generations=3000,
    ),
    "small": ours(
        "as long as mini-sd's prompts, whose words are few",
        length=8,
        strength=1.0,
        population=50,
        generations=60,
    ),
}


@dataclass(frozen=True)
class Settings(Config):
    """Settings of the search."""

    length: int = option(16, "Words K of a found prompt.", least=1)
    strength: float = option(3.0, "η: how far the target moves along the direction.", least=0)
    population: int = option(200, "Prompts of a generation.", least=4)
    generations: int = option(3000, "Generations.", least=1)
    mutation: float = option(0.25, "Share of prompts in which a word changes.", least=0, most=1)
    crossover: float = option(0.5, "Share of parents that have two children.", least=0, most=1)
    restarts: int = option(1, "Searches for each prompt, from other words.", least=1)


class RingABell(Attack):
    """Prompts near the concept, to the text encoder."""

    name = "ring-a-bell"
    reads_text = True

    def budget(self) -> str:
        """The search of a prompt."""
        settings = self.settings
        tries = counted(settings.restarts, "search", "searches")
        return (
            f"{tries} of {settings.generations} generations of"
            f" {settings.population}, {settings.length} words"
        )

    def check(self, facts: Facts) -> None:
        """InputError for more words than the text encoder reads."""
        Vocabulary(facts.tokenizer()).check_room(self.settings.length, "ring-a-bell.length")

    def prepare(self, victim: Victim, stage: Stage, samples: Sequence[Sample]) -> Rendering:
        """Search for each prompt."""
        vocabulary = Vocabulary(victim.pipeline.tokenizer)
        direction = _direction(victim)

        def search(batch: Sequence[Sample]) -> list[dict[str, Any]]:
            return [_search(victim, vocabulary, self.settings, stage, s, direction) for s in batch]

        found = victim.store.each(stage.name, samples, search, 1)
        return Rendering(with_prompts(samples, {key: str(f["prompt"]) for key, f in found.items()}))


@torch.no_grad()
def _direction(victim: Victim) -> Tensor:
    """`[L, D]`: what the concept adds to the states of a prompt."""
    parts = [
        victim.conditions([text for pair in victim.pairs for text in pair[side : side + 1]])
        for side in (0, 1)
    ]
    difference: Tensor = (parts[0]["states"] - parts[1]["states"]).mean(0)
    return difference


@torch.no_grad()
def _search(
    victim: Victim,
    vocabulary: Vocabulary,
    settings: Settings,
    stage: Stage,
    sample: Sample,
    direction: Tensor,
) -> dict[str, Any]:
    """The best prompt of the last generation, with its distance."""
    source = generator(victim.seed, "ring-a-bell", stage.name, sample.id)
    words, encoders = vocabulary.tokens, victim.encoders
    wanted = victim.conditions([sample.prompt])["states"][0] + settings.strength * direction

    def distance(tokens: Tensor) -> Tensor:
        distances = []
        for part in tokens.split(ENCODED):
            filler = " ".join([vocabulary.filler] * settings.length)
            vectors = [e.get_input_embeddings().weight[part.to(victim.device)] for e in encoders]
            with replaced_tokens(encoders, 1, vectors):
                states = victim.conditions([filler] * len(part))["states"]
            distances.append((states - wanted).square().flatten(1).sum(1).cpu())
        return torch.cat(distances)

    tokens = words[
        torch.randint(len(words), (settings.population, settings.length), generator=source)
    ]
    scores = distance(tokens)
    for _ in range(settings.generations - 1):
        parents = tokens[scores.argsort()[: settings.population // 2]]
        tokens = _mutated(_crossed(parents, settings, source), words, settings, source)
        scores = distance(tokens)
    best = int(scores.argmin())
    return {"prompt": vocabulary.text(tokens[best].tolist()), "loss": float(scores[best])}


def _crossed(parents: Tensor, settings: Settings, source: torch.Generator) -> Tensor:
    """The parents, and two children of each that is drawn, cut at one place."""
    count, length = parents.shape
    drawn = torch.rand(count, generator=source) < settings.crossover
    first = parents[drawn]
    second = parents[torch.randint(count, (len(first),), generator=source)]
    cut = torch.randint(1, length + 1, (len(first), 1), generator=source)
    head = torch.arange(length) < cut
    return torch.cat([parents, first.where(head, second), second.where(head, first)])


def _mutated(tokens: Tensor, words: Tensor, settings: Settings, source: torch.Generator) -> Tensor:
    """Each prompt that is drawn with another word at one place."""
    count, length = tokens.shape
    drawn = torch.rand(count, generator=source) < settings.mutation
    place = torch.randint(length, (count, 1), generator=source)
    word = words[torch.randint(len(words), (count, 1), generator=source)]
    changed = tokens.scatter(1, place, word)
    return changed.where(drawn[:, None], tokens)
