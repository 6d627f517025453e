"""One evaluation from model name to report: `erase evaluate`.

The output folder holds `record.json`, `images/`, `samples.jsonl` (a row per image), `metrics.json`
and `report.html`. A second call with the same settings renders only missing images; a call with
other settings refuses the folder.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from erase.artifacts import hub
from erase.config.evaluate import EvaluateConfig
from erase.data.prompt_table import listed, prompt_source, source_hash
from erase.data.rendered import suite_for
from erase.errors import EraseError, InputError, MissingError
from erase.evaluation.by_request import by_request
from erase.evaluation.differences import differences
from erase.evaluation.plan import (
    EvaluationPlan,
    StageProgress,
    cache_folder,
    find_baseline,
    make_plan,
)
from erase.evaluation.score import Scored
from erase.files import fingerprint, write_json, write_jsonl
from erase.models.known import download_note, known_source
from erase.models.loading import ModelSource, resolve
from erase.report.card import CARD_FILE, update_card
from erase.report.data import ReportData
from erase.report.evaluation import write_report
from erase.runs.checks import check_writable
from erase.runs.device import say_device
from erase.runs.folder import KnownFolder
from erase.runs.manifest import entries, note_files
from erase.runs.processes import Distributed, joined
from erase.runs.record import RunRecord, read_record, versions
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


def prepare(
    config: EvaluateConfig, missing: list[str] | None = None
) -> tuple[EvaluationPlan, dict[str, Any]]:
    """The plan of an evaluation, and its entry about the baseline for the record.

    Nothing is written. Raises InputError for whatever cannot be used. With a list `missing` nothing
    is fetched either, and what is not on this machine is added to the list.
    """
    config = config.replace(suite=config.suite or suite_for(config.model))
    suite = load_suite(config.suite)
    with contextlib.ExitStack() as stack:
        if missing is not None:
            stack.enter_context(hub.nothing_is_fetched())
        source = _find_model(config.model, missing)
        root = prompt_source(config.prompt_table or config.prompts)
        baseline, note = find_baseline(config, source)
        plan = make_plan(config, suite, source, root, baseline=baseline, missing=missing)
    check_writable(Path(config.output), "--output")
    if baseline is not None:
        check_writable(cache_folder(config), "--cache-dir")
    return plan, note


def _find_model(model: str, missing: list[str] | None) -> ModelSource:
    """The model; for a dry run the configuration of one that is not here yet, with a note."""
    try:
        return resolve(model)
    except MissingError:
        source = known_source(model)
        if missing is None or source is None:
            raise
        missing.append(download_note(model))
        return source


def folder_facts(plan: EvaluationPlan, note: Mapping[str, Any]) -> dict[str, Any]:
    """What the record of this evaluation would say, apart from how it is run."""
    return _facts(plan, note, *image_fingerprints(plan))


def warnings(plan: EvaluationPlan, note: Mapping[str, Any]) -> list[str]:
    """What a user should know of a plan before it runs."""
    lines = []
    if note.get("warning"):
        lines.append(f"without a baseline: {note['reason']}. Choose one with --baseline.")
    if plan.unusable:
        first = plan.unusable[0]
        lines.append(
            f"{len(plan.unusable)} of the suite's prompts cannot be used"
            f" (number {first.row}: {first.why}); record.json lists them."
        )
    return lines


def _evaluate(
    config: EvaluateConfig, distributed: Distributed, progress: StageProgress | None
) -> EvaluationResult | None:
    plan, note = prepare(config)
    asked, config = config.device, plan.config
    say_device(plan.device, asked)
    for line in warnings(plan, note) if distributed.is_main else ():
        click.echo(f"Warning: {line}", err=True)
    output = Path(config.output)
    images, baseline_images = distributed.on_main(lambda: image_fingerprints(plan))
    facts = _facts(plan, note, images, baseline_images)
    facts["processes"] = distributed.count
    inputs = (
        plan.source.path,
        plan.baseline.path if plan.baseline else None,
        *(config.reference, config.prompts, config.prompt_table, config.classifier),
    )
    folder = EvaluationFolder(output, KIND, facts, overwrite=config.overwrite, inputs=inputs)
    with folder.hold(distributed, **facts) as record:
        files = plan.render(distributed, plan.source, images, output, "model", progress)
        baseline_files = None
        if plan.baseline is not None and baseline_images is not None:
            shared = cache_folder(config) / baseline_images
            baseline_files = plan.render(
                distributed, plan.baseline, baseline_images, shared, "baseline", progress
            )
        if record is None:
            return None
        scored = plan.score(files, baseline_files)
        return _write(plan, output, record, scored, files, baseline_files)


def image_fingerprints(plan: EvaluationPlan) -> tuple[str, str | None]:
    """Fingerprints of the images of the model and of the baseline, which names their folder."""
    baseline = plan.baseline
    return plan.fingerprint(plan.source), None if baseline is None else plan.fingerprint(baseline)


def _facts(
    plan: EvaluationPlan, note: Mapping[str, Any], images: str, baseline_images: str | None
) -> dict[str, Any]:
    """What the record says of the evaluation, its `fingerprint` among it."""
    config, observers = plan.config, plan.observers.fingerprints()
    identity = {
        "images": images,
        "protocol": plan.protocol.to_json(),
        "targets": sorted(plan.targets),
        "observers": observers,
        "control": baseline_images,  # the key of earlier versions: their folders still match
    }
    root = prompt_source(config.prompt_table or config.prompts)
    baseline = {name: value for name, value in note.items() if name != "warning"}
    if plan.baseline is not None and baseline_images is not None:
        baseline |= {
            "model_sha256": plan.baseline.fingerprint(),
            "images_fingerprint": baseline_images,
            "images_folder": str((cache_folder(config) / baseline_images).absolute()),
        }
    return {
        "config": config.to_dict(),
        "model": config.model,
        "model_sha256": plan.source.fingerprint(),
        "target": {"suite": config.suite, "concepts": sorted(plan.targets)},
        "fingerprint": fingerprint(identity),
        "images_fingerprint": images,
        "classifier_sha256": observers.get("classifier"),
        "observers_sha256": observers,
        "reference": plan.observers.real.facts() if plan.observers.real else None,
        "prompts_sha256": source_hash(root),
        "prompts_unusable": {"n": len(plan.unusable), "rows": listed(plan.unusable)},
        "protocol": plan.protocol.to_json(),
        "deviations": plan.protocol.deviations(plan.named),
        "baseline": baseline,
        "device": config.device,
        "dtype": config.dtype,
    }


class EvaluationFolder(KnownFolder):
    """The folder of an evaluation; the same evaluation continues in it."""

    leftovers = (METRICS, SAMPLES, REPORT, "plots", "tables")
    others = ("images", "render.json")

    def foreign(self) -> InputError:
        """The refusal of a folder that holds something else."""
        return InputError(
            f"{self.path} is not empty, and no evaluation either.", "Give another --output."
        )

    def occupied(self) -> InputError:
        """The refusal of a folder that holds another evaluation; it says in what they differ."""
        before = self.record()
        found = differences(before, {**self.facts, "versions": versions()})
        finished = before.get("status") == "finished"
        return InputError(
            f"{self.path} holds {'an' if finished else 'an unfinished'} evaluation of another"
            " model, with another baseline or settings"
            + (f": asked for are {'; '.join(found)}." if found else "."),
            "Give another --output, or --overwrite to replace it"
            + ("." if finished else ", or the settings that it was begun with."),
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
            **sample.to_json(),
            "image": str(file.relative_to(output)),
            "forget": bool(sample.names() & plan.targets),
            **scores.rows.get(sample.id, {}),
        }
        if sample.id in unreadable:
            row["unreadable"] = True
        if baseline:
            row["baseline"] = dict(baseline.rows.get(sample.id, {}))
        rows.append(row)
    metrics: dict[str, Any] = {
        "suite": plan.config.suite,
        "model": plan.config.model,
        "protocol": plan.protocol.to_json(),
        "metrics": _json(scores),
        "baseline": _json(baseline) if baseline else None,
        "differences": {name: summary.to_json() for name, summary in scores.differences.items()},
        "images": {"n": len(files), "unreadable": list(scored.unreadable)},
    }
    record_of_model = read_record(plan.source.path)
    if asked := by_request(record_of_model, plan.targets, scores, baseline):
        metrics["requests"] = asked
    if unreadable:
        click.echo(
            f"Warning: {len(unreadable)} of {len(files)} samples have an image that cannot be read"
            " and are left out; metrics.json lists them.",
            err=True,
        )
    write_jsonl(output / SAMPLES, rows)
    write_json(output / METRICS, metrics)
    record.update()
    data = ReportData(
        record=record.content,
        metrics=metrics,
        rows=rows,
        images=files,
        baseline_images=baseline_files,
        show_explicit=plan.config.show_explicit,
    )
    write_report(output / REPORT, data)
    record.finish()
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
        if entries(folder):
            note_files(folder, CARD_FILE)
    except (EraseError, OSError) as error:
        click.echo(f"Warning: the model card was left as it is: {error}", err=True)


def _json(scores: Scores) -> dict[str, Any]:
    return {name: summary.to_json() for name, summary in scores.summaries.items()}
