"""H: harmonic mean of unlearning, in-domain, cross-domain and paraphrase accuracy, with its parts.

One number that is low wherever one of the four is. Where a suite asks for one kind of thing there
is no cross-domain accuracy, and where it has no other words no paraphrase accuracy: then H is the
mean of the others. Its title and its detail hold the parts: never read it without them.
"""

from typing import ClassVar

import numpy as np

from erase.scoring.context import Context
from erase.scoring.kinds import Group, cross_domain, in_domain, several_kinds, unlearned
from erase.scoring.metric import Metric
from erase.scoring.results import Difference, Scores, Summary
from erase.scoring.statistics import Floats, draws, percentiles


class HarmonicMean(Metric):
    """The harmonic mean of UA, IRA and, where the suite has them, CRA and paraphrase UA: 0 to 1."""

    name = "h"
    requires: ClassVar[frozenset[str]] = frozenset({"targets", "kinds"})

    def check(self, context: Context) -> None:
        """Refuse samples that lack the images of one of the parts."""
        _groups(context)

    def __call__(self, context: Context) -> Scores:
        """`h`, or nothing where something of every kind was forgotten: there is no CRA.

        The interval resamples the images, those of each part among themselves.
        """
        groups = _groups(context)
        if groups is None:
            return Scores({})
        table = _table(context, groups)
        used = np.flatnonzero(~np.isnan(table).all(axis=0))
        table = table[:, used]
        strata = ["".join("-" if gap else "+" for gap in column) for column in np.isnan(table).T]
        resamples = list(draws(len(used), seed=context.seed, strata=strata))
        value, parts = _harmonic(table)
        spread = np.array([_harmonic(table[:, row])[0] for row in resamples])
        said = ", ".join(f"{name} {part:.1%}" for name, part in zip(groups, parts, strict=True))
        detail = {
            "parts": {
                name: {"value": float(part), "n": len(group.indices)}
                for (name, group), part in zip(groups.items(), parts, strict=True)
            }
        }
        interval = _around(spread, value)
        summary = Summary(f"H of {said}", value, len(used), interval, True, "share", detail)
        if context.baseline is None:
            return Scores({"h": summary})
        base = _table(context.baseline, groups)[:, used]
        before = np.array([_harmonic(base[:, row])[0] for row in resamples])
        change = value - _harmonic(base)[0]
        difference = Difference(
            change, len(used), _around(spread - before, change), "paired bootstrap"
        )
        return Scores({"h": summary}, differences={"h": difference})


def _groups(context: Context) -> dict[str, Group] | None:
    several = several_kinds(context)
    groups = {"UA": unlearned(context, wordings=False), "IRA": in_domain(context)}
    if several:
        cross = cross_domain(context)
        if cross is None:
            return None
        groups["CRA"] = cross
    if several or any(sample.wording != "name" for sample in context.samples):
        groups["paraphrase UA"] = unlearned(context, wordings=True)
    return groups


def _table(context: Context, groups: dict[str, Group]) -> Floats:
    """`[parts, N]`: 1 for an image that counts, 0 for one that does not, NaN for one left out."""
    table = np.full((len(groups), len(context.samples)), np.nan)
    for row, group in zip(table, groups.values(), strict=True):
        row[list(group.indices)] = group.counted(context)
    return table


def _harmonic(table: Floats) -> tuple[float, Floats]:
    """The harmonic mean of the rows' means, and these means; 0 where one of them is 0."""
    parts = np.nanmean(table, axis=1)
    value = float(len(parts) / (1 / parts).sum()) if parts.all() else 0.0
    return value, parts


def _around(spread: Floats, value: float) -> tuple[float, float]:
    low, high = percentiles(spread)
    return min(low, value), max(high, value)
