"""Whether images show the concept, by the suite's judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erase.errors import RunError
from erase.evaluation.plan import EvaluationPlan
from erase.evaluation.score import score_images
from erase.runs.processes import Distributed
from erase.scoring.samples import Sample

Rows = Mapping[str, Mapping[str, Any]]
"""What the judge says of each image, by sample id; `shown` says whether it shows the concept."""


def judge_images(
    distributed: Distributed,
    plan: EvaluationPlan,
    samples: Sequence[Sample],
    files: Sequence[Path],
) -> dict[str, dict[str, Any]]:
    """Rows of the judge for each sample, in every process; the first one looks.

    Raises RunError when an image cannot be read.
    """
    if not samples:
        return {}

    def look() -> dict[str, dict[str, Any]]:
        scored = score_images(samples, files, plan.targets, plan.observers)
        if scored.unreadable:
            raise RunError(
                f"{scored.unreadable[0]['file']} cannot be read.", "Delete it, and run again."
            )
        rows = scored.model.rows
        return {sample.id: _row(rows[sample.id]) for sample in samples}

    return distributed.on_main(look)


def shown(rows: Rows) -> set[str]:
    """Ids of the samples whose image shows the concept."""
    return {key for key, row in rows.items() if row["shown"]}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    verdict = row["recognised"] if "recognised" in row else row["flagged"]
    return {**row, "shown": bool(verdict)}
