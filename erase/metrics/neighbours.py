"""Neighbours: how well the things that look most like a forgotten one are kept, beside the rest.

A method that forgets more than it was asked to loses the look-alikes first. The suite lists the
neighbours; without a list for what was forgotten (a style, a colour) there is no value.
"""

from collections.abc import Mapping
from typing import ClassVar

from erase.scoring.context import Context
from erase.scoring.kinds import Group, KindRate, near_and_far


class Neighbours(KindRate):
    """Retained accuracy of neighbours and of the rest, by the suite's classifiers."""

    name = "neighbours"
    heads: ClassVar = {"neighbours": "near", "neighbours_rest": "far"}

    def groups(self, context: Context) -> Mapping[str, Group]:
        """`neighbours`, `neighbours_rest`, or nothing."""
        return near_and_far(context)
