"""`erase evaluate --dry-run`: what an evaluation would render, where, and what is missing."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from erase.config.evaluate import EvaluateConfig
from erase.errors import EraseError
from erase.evaluation.plan import EvaluationPlan, cache_folder
from erase.evaluation.run import KIND, EvaluationFolder, folder_facts, prepare, warnings
from erase.files import read_json
from erase.models.known import is_known_only
from erase.models.loading import ModelSource, load_pipeline
from erase.render.render import DTYPES, IMAGES, STATE, Renderer, use_scheduler
from erase.render.sizes import SMALL, png_bytes, readable_bytes, readable_time

TIMED = (2, 4)
"""Denoising steps of the two batches that are timed."""


def dry_run(config: EvaluateConfig) -> list[str]:
    """The protocol and the costs of an evaluation, as lines of text; writes nothing.

    One batch is timed where that takes seconds: on a GPU, or for a model of small images. Nothing
    is downloaded. Raises InputError for whatever the evaluation itself would refuse.
    """
    missing: list[str] = []
    plan, note = prepare(config, missing)
    fresh, total = [len(plan.samples)], [len(plan.samples)]
    complete = not missing
    if complete:
        facts = folder_facts(plan, note)
        EvaluationFolder(Path(config.output), KIND, facts, overwrite=config.overwrite).check()
        fresh = [_lacking(plan, Path(config.output), facts["images_fingerprint"])]
        if plan.baseline is not None:
            images = facts["baseline"]["images_fingerprint"]
            fresh.append(_lacking(plan, cache_folder(config) / images, images))
            total.append(len(plan.samples))
    elif plan.baseline is not None:
        fresh, total = fresh * 2, total * 2
    names = ("the model", "the baseline")
    side = plan.protocol.size or plan.source.resolution()
    lines = yaml.safe_dump(plan.protocol.to_json(), sort_keys=False).splitlines()
    lines += [f"# warning: {line}" for line in warnings(plan, note)]
    lines += [f"# device: {plan.device}", f"# forgotten: {', '.join(sorted(plan.targets)) or '–'}"]
    lines += [
        f"# images of {name}: {count}, of which {todo} are to be rendered"
        if plan.samples
        else f"# images of {name}: not known before the prompts are there"
        for name, count, todo in zip(names, total, fresh, strict=False)
    ]
    lines.append(f"# time to render: {_time(plan, fresh, missing)}")
    if plan.samples:
        lines.append(f"# disk: about {readable_bytes(sum(fresh) * png_bytes(side))}")
    lines += [f"# missing: {text}" for text in missing] or ["# missing: nothing"]
    return lines


def _lacking(plan: EvaluationPlan, folder: Path, images: str) -> int:
    """How many of the images a folder lacks."""
    state = folder / STATE
    if not state.is_file() or read_json(state).get("fingerprint") != images:
        return len(plan.samples)
    files = (folder / IMAGES / f"{sample.id}.png" for sample in plan.samples)
    return sum(not file.is_file() for file in files)


def _time(plan: EvaluationPlan, fresh: Sequence[int], missing: Sequence[str]) -> str:
    """The time to render what is lacking, by a batch that is timed, or why it is not known."""
    size, steps = plan.config.render_batch_size, plan.protocol.steps
    batches = sum(math.ceil(count / size) for count in fresh)
    work = f"{batches} batches of {size} images, {steps} steps each"
    if not plan.samples:
        return "not known before everything is there"
    if not batches:
        return "none"
    if missing or is_known_only(plan.source):
        return f"not known before everything is there ({work})"
    if plan.device == "cpu" and (plan.protocol.size or plan.source.resolution()) > SMALL:
        return f"not known: a batch of this model is not timed on a CPU ({work})"
    try:
        seconds = _seconds_a_batch(plan, plan.source)
    except EraseError as error:
        return f"not known: {error.message} ({work})"
    return f"about {readable_time(seconds * batches)} ({work}, {seconds:.1f} s each, measured)"


def _seconds_a_batch(plan: EvaluationPlan, source: ModelSource) -> float:
    """Seconds of a full batch with all its steps, extrapolated from two with a few steps."""
    pipeline = load_pipeline(source, dtype=DTYPES[plan.config.dtype])
    use_scheduler(pipeline, plan.protocol.scheduler)
    pipeline.to(plan.device)
    batch = [
        plan.samples[index % len(plan.samples)] for index in range(plan.config.render_batch_size)
    ]
    batch = [sample for sample in batch if sample.guidance == batch[0].guidance]
    seconds = []
    for steps in (TIMED[0], *TIMED):  # the first one warms up
        renderer = Renderer(pipeline, steps, plan.protocol.size, plan.config.render_batch_size)
        start = time.perf_counter()
        renderer(batch)
        seconds.append(time.perf_counter() - start)
    each = max(seconds[2] - seconds[1], 0.0) / (TIMED[1] - TIMED[0])
    return max(seconds[1] + each * (plan.protocol.steps - TIMED[0]), seconds[1] / TIMED[0])
