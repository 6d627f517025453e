"""One evaluation from model name to report: `erase evaluate`.

The folder it leaves holds `record.json`, `images/`, `samples.jsonl` (a row per image),
`metrics.json` and `report.html`. Called again with the same settings it renders only what is
missing; with other settings it refuses the folder.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from erase import registry
from erase.core.scoring import Protocol, Sample, Scores, subset
from erase.data.prompts import prompts_hash, prompts_root
from erase.errors import EraseError, InputError
from erase.evaluation.judges import Judge
from erase.evaluation.render import render, render_fingerprint, rendered, use_scheduler
from erase.evaluation.report import ReportData, write_report
from erase.evaluation.score import check_targets, find_protocol, needed_judge, score_images
from erase.evaluation.settings import EvaluateConfig
from erase.models.loading import ModelSource, load_pipeline, resolve
from erase.record import RECORD, RunRecord, fingerprint, read_json, write_json, write_jsonl

METRICS, SAMPLES, REPORT = "metrics.json", "samples.jsonl", "report.html"
StageProgress = Callable[[str, int, int], None]


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


@dataclass(frozen=True)
class _Plan:
    """Everything that is the same for the model and its control."""

    suite: ModuleType
    named: Protocol
    protocol: Protocol
    samples: Sequence[Sample]
    targets: frozenset[str]
    judge: Judge | None
    config: EvaluateConfig

    def fingerprint(self, source: ModelSource) -> str:
        """Of the images that this model renders under this plan."""
        return render_fingerprint(
            source.fingerprint(),
            self.samples,
            steps=self.protocol.steps,
            size=self.protocol.size,
            scheduler=self.protocol.scheduler,
            device=self.config.device,
        )

    def run(
        self,
        source: ModelSource,
        images: str,
        folder: Path,
        stage: str,
        progress: StageProgress | None,
    ) -> tuple[list[Path], Scores]:
        """Render into the folder what it lacks, and score it; a whole folder needs no model."""
        files = rendered(folder, self.samples, images)
        if files is None:
            pipeline = load_pipeline(source)
            use_scheduler(pipeline, self.protocol.scheduler)
            files = render(
                pipeline,
                self.samples,
                folder,
                steps=self.protocol.steps,
                size=self.protocol.size,
                fingerprint=images,
                batch_size=self.config.batch_size,
                device=self.config.device,
                overwrite=self.config.overwrite,
                progress=None if progress is None else partial(progress, stage),
            )
        scores = score_images(self.protocol, self.samples, files, self.targets, self.judge)
        return files, scores


def evaluate(config: EvaluateConfig, progress: StageProgress | None = None) -> Result:
    """Render, score and report; see the module's docstring for what is left in the folder.

    Args:
        config: what to evaluate and how; `config.output` is the folder.
        progress: called with (stage, images done, images in all).

    Raises InputError for settings that cannot be used (an unknown model, suite, protocol or
    target; a model without a record and no target; a device that is not there; a folder with
    something else), RunError when rendering or a metric fails; the record then says `failed`.
    """
    suite = registry.load("suites", config.suite)
    source = resolve(config.model)
    root = prompts_root(config.prompts)
    plan = _plan(config, suite, source, root)
    baseline, note = _baseline(config, source)
    output = Path(config.output)
    images = plan.fingerprint(source)
    judged = plan.judge.fingerprint() if plan.judge else None
    identity = {
        "images": images,
        "protocol": plan.protocol.to_json(),
        "targets": sorted(plan.targets),
        "classifier": judged,
    }
    _claim(output, fingerprint(identity), overwrite=config.overwrite)
    record = RunRecord(
        output,
        kind="evaluation",
        config=config.to_dict(),
        model=config.model,
        target={"suite": config.suite, "concepts": sorted(plan.targets)},
        fingerprint=fingerprint(identity),
        images_fingerprint=images,
        classifier_sha256=judged,
        prompts_sha256=prompts_hash(root),
        protocol=plan.protocol.to_json(),
        deviations=plan.protocol.deviations(plan.named),
        baseline=note,
        device=config.device,
    )
    try:
        files, scores = plan.run(source, images, output, "model", progress)
        control: tuple[list[Path], Scores] | None = None
        if baseline is not None:
            key = plan.fingerprint(baseline)
            record.update(baseline={**note, "images_fingerprint": key})
            control = plan.run(baseline, key, _cache(config) / key, "baseline", progress)
        return _write(plan, output, record, (files, scores), control)
    except EraseError as error:
        record.fail(error.message)
        raise
    except BaseException as error:
        record.fail(f"{type(error).__name__}: {error}")
        raise


def _plan(config: EvaluateConfig, suite: ModuleType, source: ModelSource, root: Path) -> _Plan:
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"The device {config.device!r} is not there.", "Try cpu.") from error
    named = find_protocol(suite, config.protocol)
    protocol = named.replace(
        steps=config.steps,
        guidance=config.guidance,
        images=config.images_per_class,
        seed=config.seed,
        limit=config.limit,
    )
    targets = check_targets(
        config.target or _recorded_targets(source, config.suite), suite.classes(root)
    )
    samples = subset(suite.samples(protocol, root), protocol.limit, protocol.seed)
    judge = needed_judge(suite, protocol, root)
    return _Plan(suite, named, protocol, samples, targets, judge, config)


def _recorded(source: ModelSource) -> dict[str, Any]:
    """The model folder's record, empty when it has none."""
    file = source.path / RECORD
    content = read_json(file) if file.exists() else {}
    return content if isinstance(content, dict) else {}


def _recorded_targets(source: ModelSource, suite: str) -> tuple[str, ...]:
    target = _recorded(source).get("target") or {}
    if target.get("suite") != suite or not target.get("concepts"):
        raise InputError(
            f"{source.name} has no record of a concept of the suite {suite!r} that it forgot.",
            "Say which one with --target NAME.",
        )
    return tuple(target["concepts"])


def _baseline(
    config: EvaluateConfig, source: ModelSource
) -> tuple[ModelSource | None, dict[str, Any]]:
    """The control and what the record says of it."""
    name = config.baseline or _recorded(source).get("base_model")
    if config.no_baseline or name is None:
        reason = "--no-baseline" if config.no_baseline else "the model's record names no base model"
        return None, {"model": None, "reason": reason}
    try:
        found = resolve(str(name))
    except InputError as error:
        if config.baseline:
            raise
        return None, {"model": None, "reason": f"{name}: {error.message}"}
    return found, {"model": str(name)}


def _cache(config: EvaluateConfig) -> Path:
    if config.cache_dir:
        return Path(config.cache_dir)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "erase" / "renders"


def _claim(output: Path, identity: str, *, overwrite: bool) -> None:
    """Refuse a folder that holds anything but this evaluation; `overwrite` clears another one."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file.", "Give a folder as --output.")
    if not output.exists() or not any(output.iterdir()):
        return
    record = read_json(output / RECORD) if (output / RECORD).exists() else {}
    if record.get("kind") != "evaluation":
        raise InputError(
            f"{output} is not empty, and no evaluation either.", "Give another --output."
        )
    if record.get("fingerprint") == identity:
        return
    if not overwrite:
        raise InputError(
            f"{output} holds an evaluation of another model or with other settings.",
            "Give another --output, or --overwrite to replace it.",
        )
    for name in (RECORD, METRICS, SAMPLES, REPORT):
        (output / name).unlink(missing_ok=True)
    shutil.rmtree(output / "plots", ignore_errors=True)


def _write(
    plan: _Plan,
    output: Path,
    record: RunRecord,
    model: tuple[list[Path], Scores],
    control: tuple[list[Path], Scores] | None,
) -> Result:
    files, scores = model
    rows = []
    for sample, file in zip(plan.samples, files, strict=True):
        row: dict[str, Any] = {
            **asdict(sample),
            "image": str(file.relative_to(output)),
            "forget": sample.target in plan.targets,
            **scores.rows.get(sample.id, {}),
        }
        if control:
            row["baseline"] = dict(control[1].rows.get(sample.id, {}))
        rows.append(row)
    metrics = {
        "suite": plan.config.suite,
        "model": plan.config.model,
        "protocol": plan.protocol.to_json(),
        "metrics": _json(scores),
        "baseline": _json(control[1]) if control else None,
    }
    write_jsonl(output / SAMPLES, rows)
    write_json(output / METRICS, metrics)
    record.finish()
    data = ReportData(
        record=record.content,
        metrics=metrics,
        rows=rows,
        images=files,
        baseline_images=control[0] if control else None,
    )
    write_report(output / REPORT, data)
    targets = tuple(sorted(plan.targets))
    return Result(output, targets, scores, control[1] if control else None, metrics)


def _json(scores: Scores) -> dict[str, Any]:
    return {name: summary.to_json() for name, summary in scores.summaries.items()}
