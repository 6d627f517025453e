"""Parts: how well the things of a forgotten pair are kept, each with others of the other kind.

The cat in the flat style was to be forgotten, so the cat in other styles and other objects in the
flat style are to stay. A method that forgets the cat, or the style, loses them. No value where no
pair was forgotten.
"""

from collections.abc import Mapping
from typing import ClassVar

from erase.scoring.context import Context
from erase.scoring.kinds import Group, KindRate, parts_of_pairs
from erase.scoring.names import PAIR


class Parts(KindRate):
    """Retained accuracy of the parts of forgotten pairs, by the suite's classifiers."""

    name = "parts"
    heads: ClassVar = {
        "parts_object": "its object",
        "parts_style": "its style",
        "parts_colour": "its colour",
    }

    def groups(self, context: Context) -> Mapping[str, Group]:
        """`parts_object`, `parts_style`, `parts_colour`: two of them for a pair, or nothing."""
        return parts_of_pairs(context)

    def parts(self, context: Context, group: Group) -> Mapping[str, list[int]]:
        """By the two things that an image was asked for: cat from glossy, cat from mono."""
        parts: dict[str, list[int]] = {}
        for place, index in enumerate(group.indices):
            asks = context.samples[index].asks
            name = PAIR.join(thing for kind, thing in asks.items() if kind in group.kinds)
            parts.setdefault(name, []).append(place)
        return parts
