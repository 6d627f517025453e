"""Plan a run of `erase concept`: resolve and check everything before anything is written."""

import hashlib
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from erase.config.concept import ClassConfig, ConceptConfig
from erase.config.families import CLASS_CONDITIONAL
from erase.config.fields import field_specs
from erase.config.layers import Layer, fill_run, merged, settings_of
from erase.config.methods import (
    MethodSpec,
    build_method,
    canonical,
    denoiser_task,
    find_method,
    run_defaults,
)
from erase.config.recipes import recipe
from erase.config.replay import Replay
from erase.data.captioned import CaptionedImages
from erase.data.classification import LabelledSet
from erase.data.concepts import (
    Concept,
    find_classes,
    find_concept,
    given_concept,
)
from erase.data.prompts import class_lists, prompts_root
from erase.data.rendered import check_renderable, rendered_suite
from erase.errors import InputError
from erase.files import fingerprint, hash_file
from erase.models.known import download_note, is_known_only, known_source
from erase.models.loading import ModelSource, resolve
from erase.models.sizes import check_size
from erase.reading import expanded
from erase.runs.device import choose_device
from erase.runs.record import versions
from erase.runs.requests import carried_on, forgotten_before, lost_record
from erase.tasks.families import family_of
from erase.tasks.family import Family
from erase.tasks.protocol import Method
from erase.training.classes import class_sets, classes_of_model
from erase.training.distinct import check_distinct
from erase.training.filters import check_filters
from erase.training.sets import Images, given_sets, prompts_of
from erase.training.trained import check_text, check_trained
from erase.training.validation import validation_prompts

COUNTS = ("num_forget_images", "num_retain_images", "num_anchor_images")
FILTERS = ("filter_forget", "filter_retain")


Run = TypeVar("Run", bound=ConceptConfig)


@dataclass(frozen=True)
class ConceptPlan:
    """A run of `erase concept` with all settings resolved.

    `facts` is everything besides the settings that the result depends on; a run is resumed only if
    its facts are unchanged. `sets` are the user's images by the name of their set; the other sets
    are rendered. `inputs` are the files and folders that the run reads, `notes` the warnings for
    the user.
    """

    config: ConceptConfig
    source: ModelSource
    concept: Concept
    sets: Mapping[str, Images]
    facts: dict[str, Any]
    inputs: tuple[str | Path | None, ...]
    notes: tuple[str, ...]
    carried: Mapping[str, Any] = field(default_factory=dict)
    """What the record keeps of the runs before: `forgotten_before` and `original`, or nothing."""

    @property
    def family(self) -> Family:
        """The model's family."""
        return family_of(self.source)


def plan(
    config: Run,
    replay: Replay[Run] | None = None,
    *,
    device: str | None = None,
    fetch: bool = True,
    weights: bool = True,
) -> ConceptPlan:
    """Resolve the model, the concept and all defaults; writes nothing.

    `replay` is the configuration file, if it is of another method. `fetch` allows a hub model to be
    downloaded; without `weights` a single file is not unpacked. Raises InputError for anything that
    cannot be used.
    """
    needed = ("model",) if isinstance(config, ClassConfig) else ("model", "concept")
    for name in needed:
        if not getattr(config, name):
            raise InputError(f"--{name} is missing.", f"Give --{name}, or a --config that has it.")
    source, missing = find_model(config, fetch=fetch, weights=weights)
    family = family_of(source)
    if not is_known_only(source):
        source.check(weights=weights or source.is_folder)
    family.stored_schedule(source)
    config = config.replace(method=canonical(config.method))
    spec = find_method(config.method, family.task.family)
    concept, sets = _concept_and_sets(config, source)
    config, concept = by_own_formula(config, concept, spec)
    method = _method(config, source, concept, family)
    left_out = (note for images in sets.values() for note in getattr(images, "notes", ()))
    lost = lost_record(expanded(config.model))
    notes = (*missing, *filter(None, [lost]), *dict.fromkeys(left_out))
    if not method.images:
        config, without = _without_images(config, replay)
        notes += without
        sets = {name: _captions(name, concept, sets) for name in method.sets}
    check_distinct(source, concept, sets)
    check_filters(config, concept, sets)

    def resolve_settings(config: Run) -> Run:
        return _resolve_settings(config, source, concept, family)

    notes += tuple(concept.notes)
    if replay is None:
        config = resolve_settings(config)
    else:
        config = resolve_settings(replay.without_defaults(config, resolve_settings))
        notes += tuple(filter(None, [replay.left_out(config)]))
    _check(config, source, family, device)
    if source.classes() or validation_prompts(config) or not set(method.sets) <= set(sets):
        check_size(source, config.resolution, "--resolution")  # something is rendered
    facts = {
        "base": source.fingerprint(),
        "prompts": fingerprint([concept.forget, concept.anchors, concept.retain]),
        "images": {name: _images_hash(images) for name, images in sets.items()} or None,
        "versions": {
            name: version
            for name, version in versions().items()
            if name in ("torch", "diffusers", "transformers")
        },
    }
    carried = carried_on(expanded(config.model))
    inputs = (
        source.path,
        config.prompts,
        config.forget_prompts,
        config.retain_prompts,
        config.forget_images,
        config.retain_images,
        *((config.data, config.data_dir) if isinstance(config, ClassConfig) else ()),
        config.anchor_images,
    )
    return ConceptPlan(config, source, concept, sets, facts, inputs, notes, carried)


def find_model(
    config: ConceptConfig, *, fetch: bool, weights: bool
) -> tuple[ModelSource, tuple[str, ...]]:
    """The model, and warnings about it.

    Where it may not be fetched and is not here, a public model is planned from its configuration.
    """
    try:
        source = resolve(
            config.model,
            config.revision,
            fetch=fetch,
            config_from=config.config_from,
            weights=weights,
        )
        return source, ()
    except InputError:
        known = None if fetch else known_source(config.model)
        if known is None:
            raise
        return known, (download_note(config.model),)


def _concept_and_sets(
    config: ConceptConfig, source: ModelSource
) -> tuple[Concept, dict[str, Images]]:
    """The concept to forget, and the sets of images that the user gives."""
    if isinstance(config, ClassConfig):
        return class_sets(config, source)
    concept = _concept(config, source)
    sets = given_sets(config, concept)
    counts = {f"num_{name}_images": _length(images) for name, images in sets.items()}
    return replace(concept, recipe={**concept.recipe, **counts}), sets


def _length(images: Images) -> int:
    return len(images.paths) if isinstance(images, CaptionedImages) else len(images)


def _concept(config: ConceptConfig, source: ModelSource) -> Concept:
    """The concept of `erase concept`: classes of a class-conditional model, or prompts."""
    root, before = prompts_root(config.prompts), forgotten_before(config.model)
    classes = classes_of_model(source, class_lists(root))
    if classes is not None:
        for name in ("erase_from", "forget_prompts", "retain_prompts"):
            if getattr(config, name):
                raise InputError(
                    f"{source.name} renders classes, and reads no prompts.",
                    f"Leave out --{name.replace('_', '-')}.",
                )
        return find_classes(classes, config.concept, config.anchor, before)
    concept = given_concept(
        config.concept,
        root,
        suite=rendered_suite(config.model),
        anchor=config.anchor,
        erase_from=config.erase_from,
        forget_prompts=config.forget_prompts,
        retain_prompts=config.retain_prompts,
        before=before,
    )
    check_renderable(config.model, concept, own_prompts=bool(config.forget_prompts))
    return concept


def by_own_formula(config: Run, concept: Concept, spec: MethodSpec) -> tuple[Run, Concept]:
    """The run and its prompts, where the method has a formula of its own for a pair of any words.

    Such a method, as ESD, has a setting `erase_from`, which --erase-from gives; its forget prompts
    are then of the concept alone. Pairs of mini-emoji, and the user's own forget prompts or images,
    stay captions of the pair, which every method forgets as it forgets anything. InputError where
    both are given and differ.
    """
    within = config.erase_from
    own = spec.typed(config.settings).get("erase_from") if "erase_from" in spec.names else None
    if own is not None and within is not None and own != within:
        raise InputError(
            f"--erase-from is {within!r} and {spec.name}'s setting erase_from is {own!r}.",
            "Give --erase-from alone.",
        )
    given = config.forget_prompts or config.forget_images or not concept.pairs
    if within is None or given or any(concept.suites) or "erase_from" not in spec.names:
        return config, concept
    things = [thing for thing, _ in concept.pairs.values()]
    alone = find_concept(things, prompts_root(config.prompts))
    retain = tuple(text for text in concept.retain if text not in alone.forget)
    return (
        config.replace(settings={**config.settings, "erase_from": within}),
        replace(concept, forget=alone.forget, anchors=alone.anchors, retain=retain, notes=()),
    )


def _without_images(config: Run, replay: Replay[Run] | None) -> tuple[Run, tuple[str, ...]]:
    """For a method that reads captions alone: clear the numbers of images, and warn the user.

    Filters from a replayed file are cleared too; `check_filters` refuses the user's own.
    """
    given = {*COUNTS, *FILTERS} if replay is None else replay.given
    notes = tuple(
        f"{config.method} reads prompts alone, so --{name.replace('_', '-')} has no effect"
        for name in COUNTS
        if name in given and getattr(config, name) is not None
    )
    return config.replace(**dict.fromkeys((*COUNTS, *(set(FILTERS) - given)))), notes


def _captions(name: str, concept: Concept, sets: Mapping[str, Images]) -> CaptionedImages:
    """The captions of a set without its images."""
    images = sets.get(name)
    if isinstance(images, CaptionedImages):
        return CaptionedImages((), images.captions)
    return CaptionedImages((), prompts_of(concept, name))


def _images_hash(images: Images) -> str:
    if isinstance(images, LabelledSet):
        digests = [hashlib.sha256(t.numpy().tobytes()) for t in (images.images, images.labels)]
        return fingerprint([digest.hexdigest() for digest in digests])
    return fingerprint([[hash_file(path) for path in images.paths], images.captions])


def _resolve_settings(config: Run, source: ModelSource, concept: Concept, family: Family) -> Run:
    """Fill in the settings that the user did not give, from the layers of this run."""
    spec = find_method(config.method, family.task.family)
    side = config.resolution or source.resolution()
    warm_up = config.lr_warmup_steps
    config = config.replace(resolution=side)
    config = fill_run(config, spec, layers_of(config, spec, concept, family.task.family, side))
    if config.max_train_steps == 1:  # a warm-up begins at a rate of 0: nothing would be trained
        config = config.replace(lr_warmup_steps=warm_up or 0)
    method = spec.build(config.settings)
    if not method.images:
        config = config.replace(**dict.fromkeys(COUNTS))
    return config.replace(max_train_steps=0) if method.closed_form else config


def _method(config: ConceptConfig, source: ModelSource, concept: Concept, family: Family) -> Method:
    """The method as it will be built: whether it looks at images may depend on its settings."""
    spec = find_method(config.method, family.task.family)
    side = config.resolution or source.resolution()
    layers = layers_of(config, spec, concept, family.task.family, side)
    built: Method = spec.build(settings_of(config, spec, layers))
    return built


def layers_of(
    config: ConceptConfig, spec: MethodSpec, concept: Concept, family: str, side: int
) -> list[Layer]:
    """The layers of a run's defaults, the strongest first: method, concept, image size."""
    others = [Layer("concept", concept.recipe), Layer(f"{side} pixels", recipe(side))]
    values = run_defaults(spec, family, side, concept.kind)
    if "epochs" in values:
        values["max_train_steps"] = _steps(values.pop("epochs"), config, others, values)
    task = denoiser_task(family, side, concept.kind)
    return [Layer(f"{spec.name} on {task}", values), *others]


def _steps(
    epochs: int, config: ConceptConfig, others: list[Layer], values: Mapping[str, Any]
) -> int:
    """Optimizer steps of passes over the forget set, for the batch that the run will have."""
    given = Layer("given", vars(config))
    decided = merged([given, Layer("method", values), *others])
    batch = decided["train_batch_size"] * config.gradient_accumulation_steps
    steps: int = math.ceil(epochs * decided["num_forget_images"] / batch)
    return steps


def _check(config: ConceptConfig, source: ModelSource, family: Family, device: str | None) -> None:
    method = build_method(config, family.task.family)
    fields = field_specs(type(config))
    if not config.max_train_steps and not method.closed_form:
        raise fields["max_train_steps"].refusal(0, remedy="Give a value of at least 1.")
    if not config.learning_rate and not method.closed_form:
        raise fields["learning_rate"].refusal(0, remedy="Give a rate above 0: 0 trains nothing.")
    factor = source.latent_factor()
    if (config.resolution or 0) % factor:
        remedy = f"Give a multiple of {factor} pixels."
        raise fields["resolution"].refusal(config.resolution, remedy=remedy)
    choose_device(device)
    packages = {
        "tensorboard": config.report_to == "tensorboard",
        "wandb": config.report_to == "wandb",
    }
    packages["bitsandbytes"] = config.use_8bit_adam
    for package, is_used in packages.items():
        if is_used and importlib.util.find_spec(package) is None:
            option = "--use-8bit-adam" if package == "bitsandbytes" else f"--report-to {package}"
            raise InputError(
                f"{option} needs {package}, which is not installed.",
                f"pip install {package}, or leave the option out.",
            )
    # A selection that matches no parameter is refused before anything is rendered.
    if config.flip and family.task.family != CLASS_CONDITIONAL:
        raise InputError(
            "--flip mirrors pixels, and this model is trained on latents.", "Leave it out."
        )
    skeleton = family.skeleton(source)
    method.check(skeleton, family.task.family)
    check_text(method, family, config)
    check_trained(skeleton, config)
    validation_prompts(config)
