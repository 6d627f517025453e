"""Paraphrase unlearning accuracy: images asked for in other words that do not show it any more.

Synonyms, descriptions that never name it, and descriptions that no training of the model has
seen. A model that has forgotten a word only still shows the thing here.
"""

from collections.abc import Mapping
from typing import ClassVar

from erase.scoring.context import Context
from erase.scoring.kinds import Group, KindRate, unlearned


class Paraphrases(KindRate):
    """Unlearning accuracy on other words, by the suite's classifiers."""

    name = "paraphrases"
    heads: ClassVar = {"paraphrases": "words"}

    def groups(self, context: Context) -> Mapping[str, Group]:
        """`paraphrases`."""
        return {"paraphrases": unlearned(context, wordings=True)}

    def parts(self, context: Context, group: Group) -> Mapping[str, list[int]]:
        """By the kind of words: synonyms, descriptions, held-out ones."""
        parts: dict[str, list[int]] = {}
        for place, index in enumerate(group.indices):
            parts.setdefault(context.samples[index].wording, []).append(place)
        return parts
