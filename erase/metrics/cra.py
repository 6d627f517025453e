"""Cross-domain retained accuracy: the other kind of thing in kept images, still shown as asked.

CRA as in UnlearnCanvas (Zhang et al. 2024): the styles of other objects when an object was
forgotten, the objects in other styles when a style was.
"""

from collections.abc import Mapping

from erase.scoring.context import Context
from erase.scoring.kinds import Group, KindRate, cross_domain


class CrossDomain(KindRate):
    """Cross-domain retained accuracy, by the suite's classifiers."""

    name = "cra"

    def groups(self, context: Context) -> Mapping[str, Group]:
        """`cra`; nothing where something of every kind was forgotten."""
        group = cross_domain(context)
        return {} if group is None else {"cra": group}
