"""The images that attacks start from: the user's own, or the base model's renderings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from erase.attack.judge import judge_images, shown
from erase.attack.plan import AttackPlan, material_recipe
from erase.core.rng import derive_seed
from erase.data.captioned import CaptionedImages
from erase.data.prompts import prompts_root
from erase.errors import RunError
from erase.evaluation.plan import StageProgress, cache_folder
from erase.render.render import DTYPES, render_fingerprint
from erase.render.share import render_together
from erase.runs.processes import Distributed
from erase.scoring.samples import Sample
from erase.tasks.attack import CONCEPT, HARMLESS, RENDERS


def find_sets(
    plan: AttackPlan,
    distributed: Distributed,
    renders: Sequence[Path],
    progress: StageProgress | None,
) -> dict[str, CaptionedImages]:
    """The sets of images that the attacks need, rendered where they are not given.

    The base model's images lie in the folder that all runs share, like those of an evaluation's
    baseline. Of its images of the concept only those stay in which the judge sees it.

    Args:
        plan: says which sets are needed.
        distributed: its processes share the rendering.
        renders: the base model's images of the plain prompts.
        progress: called with (stage, images done, images in all).

    Raises RunError when the judge sees the concept in none of its images.
    """
    samples = plan.evaluation.samples
    captions = tuple(sample.prompt for sample in samples)
    sets = {**plan.given, RENDERS: CaptionedImages(tuple(renders), captions)}
    for name in plan.sets:
        if name not in sets:
            sets[name] = _rendered(plan, name, distributed, progress)
    return sets


def material_samples(plan: AttackPlan, name: str) -> list[Sample]:
    """What the base model renders for a set: its prompts in turn."""
    if name == CONCEPT:
        prompts = [
            (target if plan.evaluation.samples[0].target else "", prompt)
            for target, concept in plan.concepts.items()
            for prompt in concept.forget
        ]
    else:
        prompts = [("", prompt) for prompt in plan.harmless]
    guidance, root = material_recipe(plan.size)["guidance"], prompts_root(plan.config.prompts)
    suite = plan.evaluation.suite
    asks = {target: suite.asks(target, root) if target else {} for target, _ in prompts}
    count, seed = plan.config.num_images, plan.evaluation.protocol.seed
    return [
        Sample(
            id=f"{number:05d}",
            prompt=prompts[number % len(prompts)][1],
            target=prompts[number % len(prompts)][0],
            seed=derive_seed(seed, "attack", name, number),
            guidance=guidance,
            asks=asks[prompts[number % len(prompts)][0]],
        )
        for number in range(count)
    ]


def _rendered(
    plan: AttackPlan,
    name: str,
    distributed: Distributed,
    progress: StageProgress | None,
) -> CaptionedImages:
    evaluation, samples = plan.evaluation, material_samples(plan, name)
    assert evaluation.baseline is not None
    steps = material_recipe(plan.size)["steps"]
    protocol = dataclasses.replace(evaluation.protocol, steps=steps)
    fingerprint = render_fingerprint(
        evaluation.baseline.fingerprint(),
        samples,
        steps=steps,
        size=protocol.size,
        scheduler=protocol.scheduler,
        device=evaluation.device,
        dtype=DTYPES[plan.config.dtype],
    )
    files = render_together(
        distributed,
        evaluation.baseline,
        samples,
        protocol,
        cache_folder(plan.config) / fingerprint,
        fingerprint=fingerprint,
        batch_size=plan.config.render_batch_size,
        device=evaluation.device,
        dtype=plan.config.dtype,
        shared=True,
        progress=None if progress is None else partial(progress, f"{name} images"),
    )
    if name == HARMLESS:
        return CaptionedImages(tuple(files), tuple(sample.prompt for sample in samples))
    good = shown(judge_images(distributed, evaluation, samples, files))
    kept = [(f, s.prompt) for f, s in zip(files, samples, strict=True) if s.id in good]
    if not kept:
        raise RunError(
            f"The judge sees the concept in none of {len(samples)} images of the base model.",
            "Give --concept-images FOLDER, or more --num-images.",
        )
    return CaptionedImages(*(tuple(part) for part in zip(*kept, strict=True)))
