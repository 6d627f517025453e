"""Learn a new word for the concept from images of it, and render the prompts with that word.

The embedding v of one word is trained on images of the concept, all weights frozen:
v* = argmin E ‖ε − ε_θ(x_t, t, c(v))‖² (CCE: Pham et al., "Circumventing Concept Erasure Methods",
ICLR 2024; textual inversion, Gal et al., ICLR 2023). The word then stands in the prompts in the
place of the concept's words, or in front of a prompt that has none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from erase.config.base import Config
from erase.config.fields import option
from erase.config.recipes import Recipe, ours, published
from erase.core.objectives import noise_mse
from erase.scoring.samples import Sample
from erase.tasks.attack import CONCEPT, Attack, Rendering, Stage, Victim, counted, with_prompts
from erase.tasks.prompts import Vocabulary, concept_words, learned_word, with_word

LEARNED = "<learned>"
"""How reports write the learned word."""
RECIPES: dict[str, Recipe] = {
    "large": published(
        "circumventing-concept-erasure: esd/train.sh; its rate of 5e-3 is multiplied by its batch"
        " of 4 and its accumulation of 4",
        steps=5000,
        batch_size=16,
        learning_rate=0.08,
    ),
    "small": ours(
        "enough to bring back a digit that mini-sd draws",
        steps=200,
        batch_size=16,
        learning_rate=0.02,
    ),
}


@dataclass(frozen=True)
class Settings(Config):
    """Settings of the inversion."""

    steps: int = option(200, "Training steps.", least=1)
    batch_size: int = option(16, "Images a step.", least=1)
    learning_rate: float = option(0.02, "Of AdamW, constant.", above=0)
    weight_decay: float = option(0.01, "AdamW's weight decay.", least=0)
    restarts: int = option(1, "Words that are learned, each with other noise.", least=1)


class TextualInversion(Attack):
    """A learned word in the place of the concept's."""

    name = "textual-inversion"
    reads_text = True
    sets = (CONCEPT,)
    gradients = True

    def budget(self) -> str:
        """The training of a word."""
        settings = self.settings
        tries = counted(settings.restarts, "learned word", "learned words")
        return (
            f"{tries}, {settings.steps} steps of"
            f" {settings.batch_size} images at {settings.learning_rate:g}"
        )

    def prepare(self, victim: Victim, stage: Stage, samples: Sequence[Sample]) -> Rendering:
        """Learn the word, put it into the model, and into the prompts."""
        victim.freeze()
        concept = concept_words(victim.pairs)
        prompts = [sample.prompt for sample in victim.samples]
        token, word = _free_word(victim, [*prompts, *victim.sets[CONCEPT].captions])

        def learn() -> dict[str, Tensor]:
            vectors = _learn(victim, self.settings, stage.name, concept, (token, word))
            return {f"encoder-{number}": vector for number, vector in enumerate(vectors)}

        learned = victim.store.once(stage.name, learn)
        with torch.no_grad():
            for number, encoder in enumerate(victim.encoders):
                table = encoder.get_input_embeddings().weight
                table[token] = learned[f"encoder-{number}"].to(table)
        replaced = {s.id: with_word(s.prompt, concept, word) for s in samples}
        said = {s.id: with_word(s.prompt, concept, LEARNED) for s in samples}
        return Rendering(with_prompts(samples, replaced), texts=said)


def _free_word(victim: Victim, prompts: Sequence[str]) -> tuple[int, str]:
    """A word that no prompt has, whose vector is replaced in this model: token and text."""
    vocabulary = Vocabulary(victim.pipeline.tokenizer)
    used = set().union(*(prompt.lower().split() for prompt in prompts))
    for token in reversed(vocabulary.tokens.tolist()):
        if (text := vocabulary.text([token])) not in used and text.isalpha():
            return token, text
    raise AssertionError("a vocabulary has more words than prompts use")


def _learn(
    victim: Victim, settings: Settings, name: str, concept: set[str], place: tuple[int, str]
) -> list[Tensor]:
    """The learned vector of each text encoder; it starts as the mean of the concept's words."""
    token, word = place
    task: Any = victim.task(CONCEPT, batch_size=settings.batch_size)
    captions = {row: text for text, row in victim.cache(CONCEPT).prompts.items()}
    vectors = [Parameter(_start(victim, encoder, concept)) for encoder in victim.encoders]
    optimizer = torch.optim.AdamW(
        vectors, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    for step in range(settings.steps):
        (batch,) = task.batches("forget", step, name)
        prompts = [with_word(captions[row], concept, word) for row in batch.condition.tolist()]
        with learned_word(victim.encoders, token, vectors):
            task.conditions = victim.conditions(prompts)
        rows = torch.arange(len(prompts), device=victim.device)
        loss = noise_mse(task.predict(batch, rows), task.target(batch)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [vector.detach() for vector in vectors]


def _start(victim: Victim, encoder: Any, concept: set[str]) -> Tensor:
    tokenizer, table = victim.pipeline.tokenizer, encoder.get_input_embeddings().weight
    tokens = {
        token
        for text in sorted(concept)
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]
    }
    start: Tensor = table[sorted(tokens)].mean(0).detach().clone()
    return start
