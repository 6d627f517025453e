"""What came back, request by request: of a model that was made to forget several times in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from erase.runs.requests import requests
from erase.scoring.results import Scores

METRIC = "ua"
"""The metric whose detail counts the images of each forgotten concept."""


def by_request(
    record: Mapping[str, Any], targets: frozenset[str], model: Scores, baseline: Scores | None
) -> list[dict[str, Any]]:
    """A row for each request whose concepts were asked for, the first one first.

    Args:
        record: of the model.
        targets: the concepts that the evaluation counts as forgotten.
        model, baseline: the scores; the counts are in the detail of `ua`.

    Returns rows of `request` (a number from 1), `method`, `concepts`, `n` images that ask for them,
    and how many of the model's and of the baseline's show them: `shown`, `baseline_shown`. Empty
    for a model of fewer than two requests, or where `ua` was not measured.
    """
    every = requests(record)
    counts = _counts(model)
    before = _counts(baseline) if baseline is not None else {}
    rows = []
    for number, request in enumerate(every, start=1) if len(every) > 1 else ():
        concepts = [name for name in request["concepts"] if name in targets and name in counts]
        if concepts:
            rows.append(
                {
                    "request": number,
                    "method": request.get("method"),
                    "concepts": concepts,
                    "n": _sum(counts, concepts, "n"),
                    "shown": _sum(counts, concepts, "recognised"),
                    "baseline_shown": _sum(before, concepts, "recognised") if before else None,
                }
            )
    return rows


def request_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows of `by_request` as lines for a terminal."""
    lines = []
    for row in rows:
        line = f"request {row['request']} ({', '.join(row['concepts'])}; {row['method']}): still"
        line += f" shown in {row['shown']} of {row['n']} images"
        if row["baseline_shown"] is not None:
            line += f", by the baseline in {row['baseline_shown']}"
        lines.append(line)
    return lines


def _counts(scores: Scores) -> Mapping[str, Mapping[str, int]]:
    summary = scores.summaries.get(METRIC)
    counts: Mapping[str, Mapping[str, int]] = (summary.detail if summary else {}).get(
        "per_class", {}
    )
    return counts


def _sum(counts: Mapping[str, Mapping[str, int]], concepts: Sequence[str], name: str) -> int:
    return sum(counts[concept][name] for concept in concepts)
