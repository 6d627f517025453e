"""One evaluation from model name to report: `erase evaluate`.

The output folder holds `record.json`, `images/`, `samples.jsonl` (a row per image), `metrics.json`
and `report.html`. A second call with the same settings renders only missing images; a call with
other settings refuses the folder.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from erase.config.evaluate import EvaluateConfig
from erase.data.prompt_table import listed, prompt_source, source_hash
from erase.errors import EraseError, InputError
from erase.evaluation.plan import (
    EvaluationPlan,
    StageProgress,
    cache_folder,
    find_baseline,
    make_plan,
)
from erase.evaluation.score import Scored
from erase.files import fingerprint, write_json, write_jsonl
from erase.models.loading import resolve
from erase.report.card import CARD_FILE, update_card
from erase.report.data import ReportData
from erase.report.evaluation import write_report
from erase.runs.checks import check_writable
from erase.runs.folder import ResultFolder
from erase.runs.processes import Distributed, joined
from erase.runs.record import RunRecord, read_record
from erase.scoring.results import Scores
from erase.scoring.suite import load_suite

METRICS, SAMPLES, REPORT = "metrics.json", "samples.jsonl", "report.html"
KIND = "evaluation"


@dataclass(frozen=True)
class EvaluationResult:
    """The numbers of an evaluation, and the folder that holds them."""

    folder: Path
    targets: tuple[str, ...]
    model: Scores
    baseline: Scores | None
    metrics: Mapping[str, Any]
    """Content of `metrics.json`."""

    @property
    def report(self) -> Path:
        """Path of the report."""
        return self.folder / REPORT


def evaluate(
    config: EvaluateConfig, progress: StageProgress | None = None
) -> EvaluationResult | None:
    """Render, score and report; the module's docstring lists the files.

    Under `accelerate launch` or torchrun all processes render, and the first one does the rest.

    Args:
        config: what to evaluate and how; `config.output` is the folder.
        progress: called with (stage, images done, images in all) of this process.

    Returns the numbers; None in processes that only helped to render. Raises InputError for
    settings that cannot be used (an unknown model, suite, protocol or target; a model without a
    record and no target; a device that is not there; a folder with something else, or that another
    process writes into), RunError when rendering or a metric fails; the record then says `failed`.
    """
    with joined() as distributed:
        return _evaluate(config, distributed, progress)


def _evaluate(
    config: EvaluateConfig, distributed: Distributed, progress: StageProgress | None
) -> EvaluationResult | None:
    suite = load_suite(config.suite)
    source = resolve(config.model)
    source.check()
    root = prompt_source(config.prompts)
    baseline, note = find_baseline(config, source)
    plan = make_plan(config, suite, source, root, baseline=baseline is not None)
    if plan.unusable and distributed.is_main:
        first = plan.unusable[0]
        click.echo(
            f"Warning: {len(plan.unusable)} of the suite's prompts cannot be used"
            f" (number {first.row}: {first.why}); record.json lists them.",
            err=True,
        )
    output = Path(config.output)
    check_writable(output, "--output")
    images = distributed.on_main(lambda: plan.fingerprint(source))
    baseline_images = distributed.on_main(
        lambda: None if baseline is None else plan.fingerprint(baseline)
    )
    observers = plan.observers.fingerprints()
    identity = {
        "images": images,
        "protocol": plan.protocol.to_json(),
        "targets": sorted(plan.targets),
        "observers": observers,
        "control": baseline_images,  # the key of earlier versions: their folders still match
    }
    if baseline is not None:
        check_writable(cache_folder(config), "--cache-dir")
    key = fingerprint(identity)
    facts = {
        "config": config.to_dict(),
        "model": config.model,
        "target": {"suite": config.suite, "concepts": sorted(plan.targets)},
        "fingerprint": key,
        "images_fingerprint": images,
        "classifier_sha256": observers.get("classifier"),
        "observers_sha256": observers,
        "reference": plan.observers.real.facts() if plan.observers.real else None,
        "prompts_sha256": source_hash(root),
        "prompts_unusable": {"n": len(plan.unusable), "rows": listed(plan.unusable)},
        "protocol": plan.protocol.to_json(),
        "deviations": plan.protocol.deviations(plan.named),
        "baseline": note
        | (
            {
                "images_fingerprint": baseline_images,
                "images_folder": str((cache_folder(config) / baseline_images).absolute()),
            }
            if baseline_images
            else {}
        ),
        "device": config.device,
        "dtype": config.dtype,
        "processes": distributed.count,
    }
    folder = EvaluationFolder(output, key, overwrite=config.overwrite)
    with folder.hold(distributed, **facts) as record:
        files = plan.render(distributed, source, images, output, "model", progress)
        baseline_files = None
        if baseline is not None and baseline_images is not None:
            shared = cache_folder(config) / baseline_images
            baseline_files = plan.render(
                distributed, baseline, baseline_images, shared, "baseline", progress
            )
        if record is None:
            return None
        scored = plan.score(files, baseline_files)
        return _write(plan, output, record, scored, files, baseline_files)


class EvaluationFolder(ResultFolder):
    """The folder of an evaluation; the same evaluation continues in it.

    Args:
        path: the folder.
        identity: fingerprint of everything that the evaluation's numbers depend on.
        overwrite: whether another evaluation in the folder may be replaced.
    """

    leftovers = (METRICS, SAMPLES, REPORT, "plots", "tables")

    def __init__(self, path: Path, identity: str, *, overwrite: bool) -> None:
        super().__init__(path, KIND, overwrite=overwrite)
        self.identity = identity

    def continues(self) -> bool:
        """Whether the evaluation in the folder measures the same."""
        return bool(self.record().get("fingerprint") == self.identity)

    def foreign(self) -> InputError:
        """The refusal of a folder that holds something else."""
        return InputError(
            f"{self.path} is not empty, and no evaluation either.", "Give another --output."
        )

    def occupied(self) -> InputError:
        """The refusal of a folder that holds another evaluation."""
        return InputError(
            f"{self.path} holds an evaluation of another model, with another baseline or settings.",
            "Give another --output, or --overwrite to replace it.",
        )


def _write(
    plan: EvaluationPlan,
    output: Path,
    record: RunRecord,
    scored: Scored,
    files: list[Path],
    baseline_files: list[Path] | None,
) -> EvaluationResult:
    scores, baseline = scored.model, scored.baseline
    unreadable = {item["id"] for item in scored.unreadable}
    rows = []
    for sample, file in zip(plan.samples, files, strict=True):
        row: dict[str, Any] = {
            **asdict(sample),
            "image": str(file.relative_to(output)),
            "forget": sample.target in plan.targets,
            **scores.rows.get(sample.id, {}),
        }
        if sample.id in unreadable:
            row["unreadable"] = True
        if baseline:
            row["baseline"] = dict(baseline.rows.get(sample.id, {}))
        rows.append(row)
    metrics = {
        "suite": plan.config.suite,
        "model": plan.config.model,
        "protocol": plan.protocol.to_json(),
        "metrics": _json(scores),
        "baseline": _json(baseline) if baseline else None,
        "differences": {name: summary.to_json() for name, summary in scores.differences.items()},
        "images": {"n": len(files), "unreadable": list(scored.unreadable)},
    }
    if unreadable:
        click.echo(
            f"Warning: {len(unreadable)} of {len(files)} samples have an image that cannot be read"
            " and are left out; metrics.json lists them.",
            err=True,
        )
    write_jsonl(output / SAMPLES, rows)
    write_json(output / METRICS, metrics)
    record.finish()
    data = ReportData(
        record=record.content,
        metrics=metrics,
        rows=rows,
        images=files,
        baseline_images=baseline_files,
        show_explicit=plan.config.show_explicit,
    )
    write_report(output / REPORT, data)
    _update_model_card(plan.config, metrics, output)
    targets = tuple(sorted(plan.targets))
    return EvaluationResult(output, targets, scores, baseline, metrics)


def _update_model_card(config: EvaluateConfig, metrics: Mapping[str, Any], output: Path) -> None:
    """Write the numbers into the model's card, if the model is a run with a card."""
    folder = Path(config.model)
    if not (folder / CARD_FILE).is_file() or read_record(folder).get("kind") != "concept":
        return
    try:
        update_card(folder, metrics, output)
    except (EraseError, OSError) as error:
        click.echo(f"Warning: the model card was left as it is: {error}", err=True)


def _json(scores: Scores) -> dict[str, Any]:
    return {name: summary.to_json() for name, summary in scores.summaries.items()}
