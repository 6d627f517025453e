"""Composition: kept images that show everything their prompt names: object, style and background.

`ira` and `cra` look at one kind of thing each. A model may keep both and mix them up, or forget
that the background was to be blue.
"""

from collections.abc import Mapping
from typing import ClassVar

from erase.scoring.context import Context
from erase.scoring.kinds import Group, KindRate, composed


class Composition(KindRate):
    """Retained accuracy of all that a prompt names at once, by the suite's classifiers."""

    name = "composition"
    heads: ClassVar = {"composition": "all named"}

    def groups(self, context: Context) -> Mapping[str, Group]:
        """`composition`."""
        return {"composition": composed(context)}

    def parts(self, context: Context, group: Group) -> Mapping[str, list[int]]:
        """By the kinds of things that prompts name: object + style, object + style + colour."""
        parts: dict[str, list[int]] = {}
        for place, index in enumerate(group.indices):
            parts.setdefault(" + ".join(context.samples[index].asks), []).append(place)
        return parts
