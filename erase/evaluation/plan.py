"""The plan of one evaluation, resolved and checked before anything is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from erase.artifacts import cache
from erase.config.evaluate import EvaluateConfig
from erase.config.fields import field_specs
from erase.errors import InputError, MissingError
from erase.evaluation.checks import check_metrics, check_model, check_reference
from erase.evaluation.observe import Observers, find_observers, requirements
from erase.evaluation.protocols import change, find_protocol
from erase.evaluation.score import Scored, check_targets, choose_samples, score_images
from erase.models.loading import ModelSource, resolve
from erase.models.schedules import convert, scheduler_class, stored_scheduler
from erase.render.render import DTYPES, render_fingerprint
from erase.render.share import render_together
from erase.runs.checks import check_memory, check_space
from erase.runs.device import choose_device
from erase.runs.processes import Distributed
from erase.runs.record import read_record
from erase.runs.requests import forgotten, original
from erase.scoring.metric import load_metric
from erase.scoring.samples import Protocol, Sample, Unusable
from erase.scoring.suite import Suite

T = TypeVar("T")
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
    """With the device that was chosen."""
    source: ModelSource
    baseline: ModelSource | None

    @property
    def device(self) -> str:
        """Where images are rendered and judged."""
        return self.config.device or "cpu"

    def fingerprint(self, source: ModelSource) -> str:
        """The fingerprint of the images that a model renders under this plan."""
        return render_fingerprint(
            source.fingerprint(),
            self.samples,
            steps=self.protocol.steps,
            size=self.protocol.size,
            scheduler=self.protocol.scheduler,
            device=self.device,
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
            batch_size=self.config.render_batch_size,
            device=self.device,
            dtype=self.config.dtype,
            shared=stage == "baseline",
            # The model's own folder is held: what it holds of other settings is to be replaced.
            overwrite=self.config.overwrite or stage == "model",
            progress=None if progress is None else partial(progress, stage),
            each=self._ahead(),
        )

    def _ahead(self) -> Callable[[Path], object] | None:
        """What looks at each image while the next batch renders, where that gains something."""
        if self.observers.detector is None:
            return None
        from erase.evaluation.ahead import while_rendering

        return while_rendering(self.observers.detector, self.device)

    def score(self, files: list[Path], baseline: list[Path] | None) -> Scored:
        """The scores of the protocol's metrics for the images of the model and of the baseline."""
        return score_images(self.samples, files, self.targets, self.observers, baseline)


def make_plan(
    config: EvaluateConfig,
    suite: Suite,
    source: ModelSource,
    root: Path,
    *,
    baseline: ModelSource | None,
    missing: list[str] | None = None,
) -> EvaluationPlan:
    """Resolve what is rendered and measured, and refuse what cannot be: nothing is written yet.

    A dry run gives a list `missing`, to which is added what is not on this machine yet; without
    the list that is an error.

    Raises InputError for anything that cannot be used, also for weights not on this machine.
    """
    config = config.replace(device=choose_device(config.device))
    named = find_protocol(suite, config.protocol)
    protocol = change(
        suite,
        named,
        metrics=config.metrics,
        settings=config.settings,
        options=_options(config),
        steps=config.render_steps,
        guidance=config.guidance,
        images=config.images_per_class,
        seed=config.seed,
        limit=config.limit,
        scheduler=config.scheduler,
        size=config.resolution,
        classifier=config.classifier,
    )
    if protocol.scheduler is not None:
        convert(stored_scheduler(source.path), scheduler_class(protocol.scheduler))
    classes = suite.classes(root)
    _check_fits(config, protocol, source, len(classes))
    chosen = config.target or _recorded_targets(source, config.suite)
    if chosen or "targets" in requirements(protocol):
        if not chosen:
            raise _nothing_forgotten(source, config.suite, classes, protocol)
        targets = check_targets(chosen, classes, lambda word: suite.asks(word, root))
    else:
        targets = frozenset[str]()
    model_classes = source.classes()
    unknown_classes = [name for name in classes if model_classes and name not in model_classes]
    samples: list[Sample] = _or_missing(
        lambda: choose_samples(suite, protocol, root, targets, frozenset(unknown_classes)),
        [],
        missing,
    )
    if not samples and not missing:
        raise InputError(
            f"{source.name} knows no class of the suite {config.suite!r}.",
            f"It knows: {', '.join(dict.fromkeys(model_classes.values()))}.",
        )
    for model in filter(None, (source, baseline)):
        check_model(model, protocol, samples)
    if samples:
        check_metrics(protocol, samples, targets, suite.neighbours(root))
    observers = _or_missing(
        lambda: find_observers(
            suite,
            protocol,
            root,
            targets=targets,
            baseline=baseline is not None,
            reference=config.reference,
            follow_links=config.follow_links,
            device=str(config.device),
        ),
        Observers(protocol),
        missing,
    )
    check_reference(observers.real, samples, targets)
    unusable = (suite.unusable(protocol, root) if samples else []) + [
        Unusable(classes.index(name), f"the model does not know the class {name}", name)
        for name in unknown_classes
    ]
    return EvaluationPlan(
        suite, named, protocol, samples, unusable, targets, observers, config, source, baseline
    )


def _or_missing(get: Callable[[], T], instead: T, missing: list[str] | None) -> T:
    """What `get` returns; for a dry run `instead`, with a note, where that is not here yet."""
    try:
        return get()
    except MissingError as error:
        if missing is None:
            raise
        missing.append(f"{error.message} {error.remedy}")
        return instead


def _nothing_forgotten(
    source: ModelSource, suite: str, classes: Sequence[str], protocol: Protocol
) -> InputError:
    """The refusal of an evaluation that counts forgotten concepts, of a model that names none."""
    others = [name for name in protocol.metrics if "targets" not in load_metric(name).requires]
    remedy = f"Give --target with one of: {', '.join(classes)}"
    if others:
        remedy += f"; or measure without a target: --metrics {','.join(others)}"
    if read_record(source.path):
        return InputError(
            f"The record of {source.name} names no forgotten concept of the suite {suite}.",
            f"{remedy}.",
        )
    return InputError(f"{source.name} is no erase run: nothing says what it forgot.", f"{remedy}.")


def _check_fits(
    config: EvaluateConfig, protocol: Protocol, source: ModelSource, classes: int
) -> None:
    """InputError for a batch or a number of images that the machine cannot hold."""
    fields = field_specs(EvaluateConfig)
    pixels = 3 * (protocol.size or source.resolution()) ** 2
    needed = 2 * 4 * pixels * config.render_batch_size  # as the model's output, and as numpy's copy
    check_memory(fields["render_batch_size"], config.render_batch_size, needed, config.device)
    if config.limit is None and protocol.images:
        needed = 2 * pixels // 3 * protocol.images * max(classes, 1)  # as PNG
        check_space(fields["images_per_class"], protocol.images, needed, Path(config.output))


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
    """The suite's forgotten concepts in the model's record, those of the runs before it first.

    None without a record.
    """
    found = forgotten(read_record(source.path))
    return tuple(item.name for item in found if item.suite == suite)


def find_baseline(
    config: EvaluateConfig, source: ModelSource
) -> tuple[ModelSource | None, dict[str, Any]]:
    """The baseline, and its entry in the evaluation's record.

    Without --baseline, the baseline is the model before anything was forgotten, as the model's
    record names it: the base of its run, or of the first of several runs one after the other. If
    that cannot be found, or has other weights, the evaluation has no baseline, with a warning.
    """
    if config.no_baseline:
        return None, {"model": None, "reason": "--no-baseline"}
    if config.baseline:
        return resolve(config.baseline), {"model": config.baseline}
    first = original(read_record(source.path))
    if first is None:
        return None, {"model": None, "reason": "the model's record names no base model"}
    name = str(first["model"])
    try:
        base = resolve(name, first.get("revision"))
        weights = base.fingerprint()
    except InputError as error:
        reason = f"{name}: {error.message.rstrip('.')}"
    else:
        if first.get("fingerprint") in (None, weights):
            return base, {"model": name}
        reason = f"{name} is no longer the base that the model was made from: its files differ"
    return None, {"model": None, "reason": reason, "warning": True}


def cache_folder(config: EvaluateConfig) -> Path:
    """The folder of the baselines' images, which all evaluations share."""
    if config.cache_dir:
        return Path(config.cache_dir)
    return cache.cache_folder("renders")
