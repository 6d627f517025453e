"""From image files to scores: loads what the metrics of a protocol need, and runs them."""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from diffusers import DiffusionPipeline

from erase import registry
from erase.core.scoring import Context, Protocol, Sample, Scores, Summary, Verdicts, subset
from erase.data.prompts import prompts_root
from erase.errors import InputError
from erase.evaluation.judges import Judge, load_judge
from erase.evaluation.render import Progress, render, use_scheduler


def find_protocol(suite: ModuleType, name: str) -> Protocol:
    """A suite's settings by name; InputError, naming the known ones, if it has none such."""
    known: dict[str, Protocol] = suite.protocols()
    if name not in known:
        raise InputError(f"There is no protocol {name!r}.", f"Known: {', '.join(known)}.")
    return known[name]


def check_targets(targets: Collection[str], classes: Collection[str]) -> frozenset[str]:
    """The targets, or InputError when there are none or one is not a class of the suite."""
    unknown = sorted(set(targets) - set(classes)) if classes else []
    if unknown or not targets:
        said = f"The suite has no {unknown[0]!r}." if unknown else "No concept is named."
        raise InputError(said, f"Give --target with one of: {', '.join(classes)}.")
    return frozenset(targets)


def needed_judge(suite: ModuleType, protocol: Protocol, prompts: Path) -> Judge | None:
    """The suite's classifier, if one of the protocol's metrics asks for it."""
    needs = {need for name in protocol.metrics for need in registry.load("metrics", name).NEEDS}
    if not needs & {"classifier", "reference"} or suite.CLASSIFIER is None:
        return None
    return load_judge(suite.CLASSIFIER, suite.classes(prompts))


def score_images(
    protocol: Protocol,
    samples: Sequence[Sample],
    images: Sequence[Path],
    targets: frozenset[str],
    judge: Judge | None,
) -> Scores:
    """Run the protocol's metrics over rendered images, and join what they return.

    RunError when a metric has nothing to measure; ValueError when two metrics claim one name.
    """
    verdicts: Verdicts | None = judge.verdicts(images) if judge else None
    context = Context(
        samples=samples,
        images=images,
        targets=targets,
        verdicts=verdicts,
        reference=judge.reference() if judge else None,
        seed=protocol.seed,
    )
    summaries: dict[str, Summary] = {}
    rows: dict[str, dict[str, Any]] = {sample.id: {} for sample in samples}
    for name in protocol.metrics:
        scores: Scores = registry.load("metrics", name).score(context)
        if clash := summaries.keys() & scores.summaries.keys():
            raise ValueError(f"two metrics are called {', '.join(clash)}")
        summaries |= scores.summaries
        for sample_id, fields in scores.rows.items():
            rows[sample_id] |= fields
    return Scores(summaries, rows)


def score_pipeline(
    pipeline: DiffusionPipeline,
    targets: Collection[str],
    *,
    suite: str = "digits",
    protocol: str = "default",
    images: int | None = None,
    batch_size: int = 50,
    device: str = "cpu",
    prompts: Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Summary]:
    """Evaluate a pipeline that is in memory, leaving nothing behind.

    Args:
        pipeline: text-to-image pipeline, as it is: `pipeline.unet` may be under training (its mode
            is left alone, so call `.eval()` first).
        targets: the forgotten concepts, as the suite's classes name them.
        images: images a class; default: the protocol's.
        settings: other settings of `Protocol` to change: `steps`, `guidance`, `seed`, `limit`.

    Returns summaries by metric name: the same numbers as `erase evaluate` gives for these
    settings. Raises InputError for an unknown suite, protocol or target.
    """
    module = registry.load("suites", suite)
    used = find_protocol(module, protocol).replace(images=images, **settings)
    root = prompts_root(prompts)
    forgotten = check_targets(targets, module.classes(root))
    samples = subset(module.samples(used, root), used.limit, used.seed)
    scheduler = pipeline.scheduler
    with tempfile.TemporaryDirectory(prefix="erase-") as folder:
        try:
            use_scheduler(pipeline, used.scheduler)
            files = render(
                pipeline,
                samples,
                Path(folder),
                steps=used.steps,
                size=used.size,
                fingerprint="in memory",
                batch_size=batch_size,
                device=device,
                progress=progress,
            )
        finally:
            pipeline.scheduler = scheduler
        judge = needed_judge(module, used, root)
        return dict(score_images(used, samples, files, forgotten, judge).summaries)
