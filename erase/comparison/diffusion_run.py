"""One run of a diffusion comparison: the method in a process of its own, then its evaluation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypedDict

from erase.comparison.store import Result
from erase.config.compare import CompareDiffusionConfig
from erase.config.evaluate import EvaluateConfig
from erase.errors import RunError
from erase.evaluation.run import evaluate
from erase.runs.record import read_record
from erase.runs.signals import run_child
from erase.training.plan import ConceptPlan


class Measured(TypedDict):
    """What the result of a run says that did not fail."""

    ua: float
    ra: float
    fid: float
    seconds: float
    memory_bytes: float
    original: dict[str, float]


def measure(
    planned: ConceptPlan, folder: Path, config: CompareDiffusionConfig, output: Path, device: str
) -> Result:
    """Run a planned method in a process of its own, then evaluate the model it saved.

    Args:
        planned: with its shared images.
        folder: of the run; the evaluation goes into it.
        config: how the model is judged.
        output: folder of the comparison, which keeps the original's images for all evaluations.
        device: where to train and to render.

    Raises:
        EraseError: the run or the evaluation failed.
    """
    given = folder.with_name(f"{folder.name}.yaml")
    planned.config.write(given)
    done = run_child(
        [
            *(sys.executable, "-m", "erase", "concept", "--config", str(given)),
            *("--output", str(folder), "--device", device, "--overwrite"),
        ]
    )
    if done.returncode:
        errors = [text for text in done.stderr.splitlines() if text.startswith("Error")]
        raise RunError(
            errors[-1] if errors else f"the run ended with exit code {done.returncode}",
            "Run it alone to see why: erase concept --config " + str(given),
        )
    record = read_record(folder)
    result = evaluate(
        EvaluateConfig(
            model=str(folder),
            suite=str(planned.concept.suite),
            output=str(folder / "evaluation"),
            images_per_class=config.images_per_class,
            render_steps=config.evaluation_steps,
            device=device,
            cache_dir=str(output / "originals"),
            overwrite=True,
        )
    )
    assert result is not None  # a comparison is one process
    metrics, base = result.metrics["metrics"], result.metrics["baseline"]
    fid = next(name for name in metrics if name.startswith("fid"))
    return {
        **{name: metrics[name]["value"] for name in ("ua", "ra")},
        **{f"{name}_ci95": metrics[name]["ci95"] for name in ("ua", "ra")},
        **{f"{name}_n": metrics[name]["n"] for name in ("ua", "ra")},
        "fid": metrics[fid]["value"],
        "fid_name": fid,
        "original": {name: base[name]["value"] for name in ("ua", "ra")}
        | {"fid": base[fid]["value"]},
        "seconds": record["train_seconds"],
        "memory_bytes": record.get("device_peak_memory_bytes") or record["peak_memory_bytes"],
        "settings": planned.config.to_dict(),
    }
