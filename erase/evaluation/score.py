"""From image files to scores: run the judges, then the metrics of a protocol."""

import dataclasses
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from erase.data.pictures import unreadable_among
from erase.data.prompt_table import prompt_source
from erase.errors import InputError, RunError
from erase.evaluation.observe import Observed, Observers, find_observers, requirements
from erase.evaluation.protocols import complete, find_protocol
from erase.render.render import Progress, render, use_scheduler
from erase.scoring.judge import View
from erase.scoring.metric import load_metric
from erase.scoring.names import PAIR, find_name
from erase.scoring.results import Difference, Scores, Summary
from erase.scoring.samples import Protocol, Sample, subset
from erase.scoring.suite import Suite, load_suite


def check_targets(
    targets: Collection[str],
    classes: Collection[str],
    asks: Callable[[str], Mapping[str, str]] = lambda _: {},
) -> frozenset[str]:
    """The targets as the suite spells them; a suite without classes needs none.

    `asks` says which things of which kinds a target means that is no class (`Suite.asks`), such as
    a pair. Raises InputError when one is not a class of the suite, or when all are missing.
    """
    if not classes:
        return frozenset(targets)
    names = list(classes)
    found = {}
    for word in targets:
        place = find_name(word, names)
        found[word] = PAIR.join(asks(word).values()) if place is None else names[place]
    unknown = sorted(word for word, name in found.items() if not name)
    if unknown or not targets:
        message = f"The suite has no {unknown[0]!r}." if unknown else "No concept is named."
        raise InputError(message, f"Give --target with one of: {', '.join(classes)}.")
    return frozenset(found.values())


def choose_samples(
    suite: Suite,
    protocol: Protocol,
    prompts: Path,
    targets: frozenset[str],
    without: frozenset[str] = frozenset(),
) -> list[Sample]:
    """The suite's samples that are rendered, within the protocol's limits.

    The setting `forget_images` limits the images of each forgotten concept. `without` are classes
    that the model does not have.

    Raises InputError when the suite's prompts cannot be read.
    """
    samples = suite.select(suite.samples(protocol, prompts), protocol, targets)
    samples += suite.more(protocol, prompts, targets)
    samples = list({item.id: item for item in samples}.values())
    samples = [item for item in samples if item.target not in without]
    if limit := protocol.settings.get(protocol.suite, {}).get("forget_images"):
        count = dict.fromkeys(targets, 0)
        chosen = []
        for sample in samples:
            if sample.target in count:
                count[sample.target] += 1
            if count.get(sample.target, 0) <= limit:
                chosen.append(sample)
        samples = chosen
    return subset(samples, protocol.limit, protocol.seed)


@dataclass(frozen=True)
class Scored:
    """The scores of a model and of its baseline."""

    model: Scores
    baseline: Scores | None
    unreadable: tuple[dict[str, str], ...]
    """Samples that were left out on both sides: `id`, and the `file` that cannot be read."""


def score_images(
    samples: Sequence[Sample],
    images: Sequence[Path],
    targets: frozenset[str],
    observers: Observers,
    baseline_images: Sequence[Path] | None = None,
) -> Scored:
    """Run the protocol's metrics over rendered images, and over the baseline's.

    A sample with a missing or broken image is left out on both sides and listed. Raises RunError
    when no sample is left or a metric has nothing to measure, and ValueError when two metrics have
    one name.
    """
    sides = [images] if baseline_images is None else [images, baseline_images]
    broken = [
        {"id": sample.id, "file": str(file)}
        for side in sides
        for sample, file, damaged in zip(samples, side, unreadable_among(side), strict=True)
        if damaged
    ]
    lost = {item["id"] for item in broken}
    readable = [index for index, sample in enumerate(samples) if sample.id not in lost]
    if not readable:
        raise RunError("No image can be read.", "Delete the images and evaluate again.")
    chosen = [samples[index] for index in readable]
    views = [View(chosen, [side[index] for index in readable]) for side in sides]
    observed = [observers.look(view, targets) for view in views]
    base = observed[1] if len(observed) > 1 else None
    model = _run_metrics(observers, observed[0], base)
    if base is None:
        return Scored(model, None, tuple(broken))
    return Scored(model, _run_metrics(observers, base, None), tuple(broken))


def _run_metrics(observers: Observers, observed: Observed, baseline: Observed | None) -> Scores:
    """The joined results of all metrics; those that need a baseline are skipped without one."""
    protocol = observers.protocol
    summaries: dict[str, Summary] = {}
    differences: dict[str, Difference] = {}
    rows: dict[str, dict[str, Any]] = {sample.id: {} for sample in observed.context.samples}
    for name in protocol.metrics:
        metric = load_metric(name)
        context = observed.for_metric(name, observers, baseline)
        if "baseline" in metric.requires:
            if baseline is None:
                continue
            if observers.lpips is not None and "lpips" in metric.requires:
                pairs = View(context.samples, context.images, baseline.context.images)
                drift = observers.lpips.look(pairs)
                context = dataclasses.replace(context, drift=drift)
        if "features" in metric.requires and context.reference is None:
            continue  # the baseline is itself the reference
        scores = metric(context)
        if clash := summaries.keys() & scores.summaries.keys():
            raise ValueError(f"two metrics are called {', '.join(clash)}")
        summaries |= scores.summaries
        differences |= scores.differences
        for sample_id, fields in scores.rows.items():
            rows[sample_id] |= fields
    return Scores(summaries, rows, differences)


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
    reference: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Summary]:
    """Evaluate a pipeline in memory; leaves no files.

    Args:
        pipeline: text-to-image pipeline, as it is: `pipeline.unet` may be under training (its mode
            is left alone, so call `.eval()` first).
        targets: the forgotten concepts, as the suite's classes name them; may be empty where no
            metric asks for them.
        suite, protocol: names.
        images: images a class; default: the protocol's.
        batch_size: images rendered at once.
        device: where it renders.
        prompts: folder of prompt files, or CSV table.
        reference: folder of real images, for FID and KID.
        progress: called with (images done, images in all).
        settings: other settings of `Protocol` to change: `steps`, `guidance`, `seed`, `limit`.

    Returns summaries by metric name: the same numbers as `erase evaluate` gives for these
    settings. Raises InputError for an unknown suite, protocol or target.
    """
    chosen = load_suite(suite)
    used = complete(chosen, find_protocol(chosen, protocol).replace(images=images, **settings))
    root = prompt_source(None if prompts is None else str(prompts))
    forgotten = frozenset[str]()
    if targets or "targets" in requirements(used):
        forgotten = check_targets(
            targets, chosen.classes(root), lambda word: chosen.asks(word, root)
        )
    samples = choose_samples(chosen, used, root, forgotten)
    observers = find_observers(
        chosen, used, root, targets=forgotten, reference=reference, device=device
    )
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
        return dict(score_images(samples, files, forgotten, observers).model.summaries)
