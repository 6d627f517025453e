"""One evaluation from model name to report: `erase evaluate`.

The folder it leaves holds `record.json`, `images/`, `samples.jsonl` (a row per image),
`metrics.json` and `report.html`. Called again with the same settings it renders only what is
missing; with other settings it refuses the folder.
"""

import re
import shutil
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
    recorded,
)
from erase.evaluation.score import Scored
from erase.files import fingerprint, write_json, write_jsonl
from erase.models.loading import resolve
from erase.render.share import own_folder
from erase.report.card import CARD_FILE, update_card
from erase.report.data import ReportData
from erase.report.evaluation import write_report
from erase.runs.checks import check_writable
from erase.runs.folder import LOCK
from erase.runs.record import RECORD, RunRecord
from erase.runs.world import World, joined
from erase.scoring.results import Scores
from erase.scoring.suite import load_suite

METRICS, SAMPLES, REPORT = "metrics.json", "samples.jsonl", "report.html"
KIND = "evaluation"
PARTIAL = re.compile(r"\..+\.partial-\d+")  # what a killed atomic write leaves


@dataclass(frozen=True)
class Result:
    """What an evaluation found, and where it lies."""

    folder: Path
    targets: tuple[str, ...]
    model: Scores
    baseline: Scores | None
    metrics: Mapping[str, Any]
    """Content of `metrics.json`."""

    @property
    def report(self) -> Path:
        """The report's file."""
        return self.folder / REPORT


def evaluate(config: EvaluateConfig, progress: StageProgress | None = None) -> Result | None:
    """Render, score and report; see the module's docstring for what is left in the folder.

    Under `accelerate launch` or torchrun all processes render, and the first one does the rest.

    Args:
        config: what to evaluate and how; `config.output` is the folder.
        progress: called with (stage, images done, images in all) of this process.

    Returns what was found; None in processes that only helped to render. Raises InputError for
    settings that cannot be used (an unknown model, suite, protocol or target; a model without a
    record and no target; a device that is not there; a folder with something else, or that another
    process writes into), RunError when rendering or a metric fails; the record then says `failed`.
    """
    with joined() as world:
        return _evaluate(config, world, progress)


def _evaluate(
    config: EvaluateConfig, world: World, progress: StageProgress | None
) -> Result | None:
    suite = load_suite(config.suite)
    source = resolve(config.model)
    root = prompt_source(config.prompts)
    baseline, note = find_baseline(config, source)
    plan = make_plan(config, suite, source, root, control=baseline is not None)
    if plan.unusable and world.leads:
        first = plan.unusable[0]
        click.echo(
            f"Warning: {len(plan.unusable)} of the suite's prompts cannot be used"
            f" (number {first.row}: {first.why}); record.json lists them.",
            err=True,
        )
    output = Path(config.output)
    check_writable(output, "--output")
    images = world.first(lambda: plan.fingerprint(source))
    control_images = world.first(lambda: None if baseline is None else plan.fingerprint(baseline))
    observers = plan.observers.fingerprints()
    identity = {
        "images": images,
        "protocol": plan.protocol.to_json(),
        "targets": sorted(plan.targets),
        "observers": observers,
        "control": control_images,
    }
    if baseline is not None:
        check_writable(cache_folder(config), "--cache-dir")
    key = fingerprint(identity)
    facts = {
        "kind": KIND,
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
                "images_fingerprint": control_images,
                "images_folder": str((cache_folder(config) / control_images).absolute()),
            }
            if control_images
            else {}
        ),
        "device": config.device,
        "dtype": config.dtype,
        "processes": world.count,
    }
    with own_folder(
        output,
        world,
        check=lambda: _check(output, key, overwrite=config.overwrite),
        claim=lambda: _claim(output, key, overwrite=config.overwrite),
    ):
        record = RunRecord(output, **facts) if world.leads else None
        try:
            files = plan.render(world, source, images, output, "model", progress)
            control_files = None
            if baseline is not None and control_images is not None:
                folder = cache_folder(config) / control_images
                control_files = plan.render(
                    world, baseline, control_images, folder, "baseline", progress
                )
            if record is None:
                return None
            scored = plan.score(files, control_files)
            return _write(plan, output, record, scored, files, control_files)
        except EraseError as error:
            if record:
                record.fail(error.message)
            raise
        except BaseException as error:
            if record:
                record.fail(f"{type(error).__name__}: {error}")
            raise


def _check(output: Path, identity: str, *, overwrite: bool) -> bool:
    """Whether another evaluation has to be cleared away first; changes nothing.

    InputError for a folder that holds anything but an evaluation, or another one and no
    `overwrite`.
    """
    if not output.exists() or all(
        item.name == LOCK or PARTIAL.fullmatch(item.name) for item in output.iterdir()
    ):
        return False
    record = recorded(output)
    if record.get("kind") != KIND:
        raise InputError(
            f"{output} is not empty, and no evaluation either.", "Give another --output."
        )
    if record.get("fingerprint") == identity:
        return False
    if not overwrite:
        raise InputError(
            f"{output} holds an evaluation of another model, with another control or settings.",
            "Give another --output, or --overwrite to replace it.",
        )
    return True


def _claim(output: Path, identity: str, *, overwrite: bool) -> None:
    """Make the folder this evaluation's: another one's results are cleared away."""
    if not _check(output, identity, overwrite=overwrite):
        return
    for name in (METRICS, SAMPLES, REPORT):
        (output / name).unlink(missing_ok=True)
    for name in ("plots", "tables"):
        shutil.rmtree(output / name, ignore_errors=True)
    # Replaced last, and never missing: killed at any point, the folder is still an evaluation's.
    write_json(output / RECORD, {"kind": KIND})


def _write(
    plan: EvaluationPlan,
    output: Path,
    record: RunRecord,
    scored: Scored,
    files: list[Path],
    control_files: list[Path] | None,
) -> Result:
    scores, control = scored.model, scored.control
    lost = {item["id"] for item in scored.unreadable}
    rows = []
    for sample, file in zip(plan.samples, files, strict=True):
        row: dict[str, Any] = {
            **asdict(sample),
            "image": str(file.relative_to(output)),
            "forget": sample.target in plan.targets,
            **scores.rows.get(sample.id, {}),
        }
        if sample.id in lost:
            row["unreadable"] = True
        if control:
            row["baseline"] = dict(control.rows.get(sample.id, {}))
        rows.append(row)
    metrics = {
        "suite": plan.config.suite,
        "model": plan.config.model,
        "protocol": plan.protocol.to_json(),
        "metrics": _json(scores),
        "baseline": _json(control) if control else None,
        "differences": {name: found.to_json() for name, found in scores.differences.items()},
        "images": {"n": len(files), "unreadable": list(scored.unreadable)},
    }
    if lost:
        click.echo(
            f"Warning: {len(lost)} of {len(files)} samples have an image that cannot be read and"
            " are left out; metrics.json lists them.",
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
        baseline_images=control_files,
        show_explicit=plan.config.show_explicit,
    )
    write_report(output / REPORT, data)
    _tell_card(plan.config, metrics, output)
    targets = tuple(sorted(plan.targets))
    return Result(output, targets, scores, control, metrics)


def _tell_card(config: EvaluateConfig, metrics: Mapping[str, Any], output: Path) -> None:
    """Write the numbers on the model's card, where the model is a run that has one."""
    folder = Path(config.model)
    if not (folder / CARD_FILE).is_file() or recorded(folder).get("kind") != "concept":
        return
    try:
        update_card(folder, metrics, output)
    except (EraseError, OSError) as error:
        click.echo(f"Warning: the model card was left as it is: {error}", err=True)


def _json(scores: Scores) -> dict[str, Any]:
    return {name: summary.to_json() for name, summary in scores.summaries.items()}
