"""In-domain retained accuracy: kept things of the kind that was forgotten, still shown as asked.

IRA as in UnlearnCanvas (Zhang et al. 2024): other objects when an object was forgotten, other
styles when a style was.
"""

from collections.abc import Mapping

from erase.scoring.context import Context
from erase.scoring.kinds import Group, KindRate, in_domain


class InDomain(KindRate):
    """In-domain retained accuracy, by the suite's classifiers."""

    name = "ira"

    def groups(self, context: Context) -> Mapping[str, Group]:
        """`ira`."""
        return {"ira": in_domain(context)}
