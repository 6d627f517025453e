"""The columns of a diffusion comparison: the suite's metrics, time, memory; and means over runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erase import registry
from erase.scoring.metric import load_metric

Row = Mapping[str, Any]
Rows = Sequence[Row]
PERCENT = 100.0
SHORT = 5
"""Most letters of a metric's name that is written in capitals: UA, FID, LPIPS."""
KINDS = ("ira", "cra")
"""Retained accuracy by kind of thing; `ra` repeats one of them, and has no column beside them."""


@dataclass(frozen=True)
class Column:
    """A number of the table: its name in a row, how it is written, whether more is better."""

    name: str
    title: str
    scale: float
    digits: int
    more_is_better: bool
    about: str = ""
    """What it is, for people."""

    def text(self, value: float) -> str:
        """A value as it is shown."""
        return f"{value * self.scale:.{self.digits}f}"


SPENT = (
    Column("seconds", "seconds", 1, 2, False, "training and what a method prepares"),
    Column("memory_bytes", "memory MiB", 2**-20, 0, False, "peak of the process, or of the GPU"),
)


def columns(rows: Rows) -> tuple[Column, ...]:
    """The columns of all that was measured in some run, in the order of the suite's metrics."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for name, summary in row.get("metrics", {}).items():
            found.setdefault(name, []).append(summary)
    if found.keys() & set(KINDS):
        found.pop("ra", None)
    return (*(_column(name, summaries) for name, summaries in found.items()), *SPENT)


def _column(name: str, summaries: Sequence[Mapping[str, Any]]) -> Column:
    summary, plugin = summaries[0], metric_of(name)
    head = plugin.upper() if len(plugin) <= SHORT else name.replace("_", " ")
    share = summary["unit"] == "share"
    about = str(summary["title"])
    if plugin in registry.names("metrics"):
        head = load_metric(plugin).heads.get(name, head)
        text = registry.summary("metrics", plugin)
        if plugin == name:  # the title of `h` holds the numbers of one run
            about = text
        elif len({one["title"] for one in summaries}) > 1:  # that of `parts_object` has its pair
            about = f"{text.rstrip('.')}: {head}"
    small = all(abs(one["value"]) < 1 for one in summaries)
    return Column(
        name,
        f"{head} %" if share else head,
        PERCENT if share else 1,
        1 if share else 4 if small else 2,
        bool(summary["higher_is_better"]),
        about,
    )


def metric_of(name: str) -> str:
    """The metric that a summary's name comes from: `fid64` from `fid`; itself if none fits."""
    names = [metric for metric in registry.names("metrics") if name.startswith(metric)]
    return max(names, key=len, default=name)


def value_of(row: Row, name: str, side: str = "metrics") -> float | None:
    """A number of a run, or of the original beside it; None where there is none."""
    if name in ("seconds", "memory_bytes"):
        return row.get(name) if side == "metrics" else None
    summary = row.get(side, {}).get(name)
    return None if summary is None else float(summary["value"])


def over_trials(
    rows: Rows, value: Callable[[Row], float | None]
) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation, over trials, of the means over requests.

    Runs that have no such value do not count; one trial has no deviation.
    """
    trials: dict[int, list[float]] = {}
    for row in rows:
        number = value(row)
        if number is not None:
            trials.setdefault(row["trial"], []).append(number)
    means = [statistics.fmean(numbers) for numbers in trials.values()]
    if not means:
        return None, None
    return statistics.fmean(means), statistics.stdev(means) if len(means) > 1 else None


def places(shown: Mapping[str, float], *, more_is_better: bool) -> dict[str, int]:
    """Place 1 or 2 of those with the best two values; ties share a place, others have none.

    Nobody has a place where all are equal.
    """
    values = set(shown.values())
    best = sorted(values, reverse=more_is_better)[: 2 if len(values) > 1 else 0]
    return {name: best.index(value) + 1 for name, value in shown.items() if value in best}


def by_request(rows: Rows) -> list[Row]:
    """One run that did not fail of each request, for what the original has in all of them."""
    return list({row["concept"]: row for row in reversed(rows) if "failed" not in row}.values())


def retention(row: Row, side: str = "metrics") -> float | None:
    """What is kept, 0 to 1: the mean of IRA and CRA where they are measured, else RA."""
    kinds = [v for name in KINDS if (v := value_of(row, name, side)) is not None]
    return statistics.fmean(kinds) if kinds else value_of(row, "ra", side)
