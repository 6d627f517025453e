"""The plan of one evaluation, resolved and checked before anything is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from erase.artifacts import cache
from erase.config.evaluate import EvaluateConfig
from erase.errors import InputError
from erase.evaluation.ahead import while_rendering
from erase.evaluation.observe import Observers, find_observers, requirements
from erase.evaluation.protocols import change, find_protocol
from erase.evaluation.score import Scored, check_targets, choose_samples, score_images
from erase.models.loading import ModelSource, resolve
from erase.models.schedules import convert, scheduler_class, stored_scheduler
from erase.render.render import DTYPES, render_fingerprint
from erase.render.share import render_together
from erase.runs.checks import check_device
from erase.runs.processes import Distributed
from erase.runs.record import read_record
from erase.scoring.samples import Protocol, Sample, Unusable
from erase.scoring.suite import Suite

StageProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EvaluationPlan:
    """Everything that is the same for the model and its baseline."""

    suite: Suite
    named: Protocol
    protocol: Protocol
    samples: Sequence[Sample]
    unusable: Sequence[Unusable]
    """Rows of the prompt table that are left out."""
    targets: frozenset[str]
    observers: Observers
    config: EvaluateConfig

    def fingerprint(self, source: ModelSource) -> str:
        """The fingerprint of the images that a model renders under this plan."""
        return render_fingerprint(
            source.fingerprint(),
            self.samples,
            steps=self.protocol.steps,
            size=self.protocol.size,
            scheduler=self.protocol.scheduler,
            device=self.config.device,
            dtype=DTYPES[self.config.dtype],
        )

    def render(
        self,
        distributed: Distributed,
        source: ModelSource,
        images: str,
        folder: Path,
        stage: str,
        progress: StageProgress | None,
    ) -> list[Path]:
        """Render the images that the folder lacks, together with the other processes."""
        return render_together(
            distributed,
            source,
            self.samples,
            self.protocol,
            folder,
            fingerprint=images,
            batch_size=self.config.batch_size,
            device=self.config.device,
            dtype=self.config.dtype,
            shared=stage == "baseline",
            overwrite=self.config.overwrite,
            progress=None if progress is None else partial(progress, stage),
            each=while_rendering(self.observers.detector, self.config.device),
        )

    def score(self, files: list[Path], baseline: list[Path] | None) -> Scored:
        """The scores of the protocol's metrics for the images of the model and of the baseline."""
        return score_images(self.samples, files, self.targets, self.observers, baseline)


def make_plan(
    config: EvaluateConfig, suite: Suite, source: ModelSource, root: Path, *, baseline: bool
) -> EvaluationPlan:
    """Resolve what is rendered and measured; `baseline` says whether there is a baseline.

    Raises InputError for anything that cannot be used, also for weights not on this machine.
    """
    check_device(config.device)
    named = find_protocol(suite, config.protocol)
    protocol = change(
        suite,
        named,
        metrics=config.metrics,
        settings=config.settings,
        options=_options(config),
        steps=config.steps,
        guidance=config.guidance,
        images=config.images_per_class,
        seed=config.seed,
        limit=config.limit,
        scheduler=config.scheduler,
        size=config.size,
        classifier=config.classifier,
    )
    if protocol.scheduler is not None:
        convert(stored_scheduler(source.path), scheduler_class(protocol.scheduler))
    classes = suite.classes(root)
    chosen = config.target or _recorded_targets(source, config.suite)
    if chosen or "targets" in requirements(protocol):
        if not chosen:
            raise InputError(
                f"{source.name} has no record of a concept of the suite {config.suite!r} that it"
                " forgot.",
                "Say which one with --target NAME.",
            )
        targets = check_targets(chosen, classes)
    else:
        targets = frozenset[str]()
    model_classes = source.classes()
    unknown_classes = [name for name in classes if model_classes and name not in model_classes]
    samples = choose_samples(suite, protocol, root, targets, frozenset(unknown_classes))
    if not samples:
        raise InputError(
            f"{source.name} knows no class of the suite {config.suite!r}.",
            f"It knows: {', '.join(dict.fromkeys(model_classes.values()))}.",
        )
    observers = find_observers(
        suite,
        protocol,
        root,
        targets=targets,
        baseline=baseline,
        reference=config.reference,
        device=config.device,
    )
    unusable = suite.unusable(protocol, root) + [
        Unusable(classes.index(name), f"the model does not know the class {name}", name)
        for name in unknown_classes
    ]
    return EvaluationPlan(suite, named, protocol, samples, unusable, targets, observers, config)


def _options(config: EvaluateConfig) -> dict[str, dict[str, Any]]:
    """The settings of options that are a short form of `--set`."""
    short = {
        ("nudenet", "threshold"): config.threshold,
        ("i2p", "categories"): config.categories,
        ("i2p", "min_nudity"): config.min_nudity,
    }
    settings: dict[str, dict[str, Any]] = {}
    for (section, name), value in short.items():
        if value is not None:
            if section == "i2p" and config.suite != "i2p":
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option} is for the suite i2p.", "Leave it out.")
            settings.setdefault(section, {})[name] = value
    return settings


def _recorded_targets(source: ModelSource, suite: str) -> tuple[str, ...]:
    """The suite's forgotten concepts in the model's record; none without a record."""
    target = read_record(source.path).get("target") or {}
    concepts = tuple(target.get("concepts") or ())
    suites = target.get("suites") or dict.fromkeys(concepts, target.get("suite"))
    return tuple(name for name in concepts if suites.get(name) == suite)


def find_baseline(
    config: EvaluateConfig, source: ModelSource
) -> tuple[ModelSource | None, dict[str, Any]]:
    """The baseline, and its entry in the evaluation's record.

    Without --baseline, the baseline is the base in the model's record. If that cannot be found, or
    has other weights, the evaluation has no baseline, with a warning.
    """
    if config.no_baseline:
        return None, {"model": None, "reason": "--no-baseline"}
    if config.baseline:
        return resolve(config.baseline), {"model": config.baseline}
    record = read_record(source.path)
    if record.get("base_model") is None:
        return None, {"model": None, "reason": "the model's record names no base model"}
    name = str(record["base_model"])
    try:
        base = resolve(name, record.get("base_revision"))
        weights = base.fingerprint()
    except InputError as error:
        reason = f"{name}: {error.message.rstrip('.')}"
    else:
        if record.get("base_fingerprint") in (None, weights):
            return base, {"model": name}
        reason = f"{name} is no longer the base that the model was made from: its files differ"
    if Distributed.launched().is_main:
        click.echo(f"Warning: without a baseline: {reason}. Choose one with --baseline.", err=True)
    return None, {"model": None, "reason": reason}


def cache_folder(config: EvaluateConfig) -> Path:
    """The folder of the baselines' images, which all evaluations share."""
    if config.cache_dir:
        return Path(config.cache_dir)
    return cache.cache_folder("renders")
