"""Everything that `erase concept` can find out before it touches anything."""

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from diffusers.optimization import SchedulerType

from erase.config.base import check_least
from erase.config.concept import ClassConfig, ConceptConfig
from erase.config.methods import build_method, canonical, fill, find_method
from erase.config.recipes import recipe
from erase.config.replay import Replay
from erase.data.captioned import CaptionedImages
from erase.data.classification import LabelledSet
from erase.data.concepts import Concept, find_classes, find_concept
from erase.data.prompts import class_lists, prompts_root, read_prompts
from erase.errors import InputError
from erase.files import fingerprint, hash_file
from erase.models.loading import ModelSource, resolve
from erase.runs.checks import check_device
from erase.runs.record import versions
from erase.tasks.families import Family, family_of
from erase.training.classes import class_recipe, class_sets, own_classes
from erase.training.filters import check_filters
from erase.training.sets import Images, check_drawn, given_sets, prompts_of
from erase.training.trained import check_trained
from erase.training.validation import validation_prompts

COUNTS = ("num_forget_images", "num_retain_images", "num_anchor_images")
FILTERS = ("filter_forget", "filter_retain")
LEAST: Mapping[str, float] = {
    "max_train_steps": 1,
    "train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    **dict.fromkeys(COUNTS, 1),
    "render_steps": 1,
    "render_batch_size": 1,
    "resolution": 1,
    "lr_warmup_steps": 0,
    "checkpointing_steps": 0,
    "validation_steps": 0,
    "lora_rank": 1,
    "checkpoints_total_limit": 0,
    "learning_rate": 0,
    "alpha": 0,
    "forget_weight": 0,
    "max_grad_norm": 0,
    "weight_decay": 0,
    "seed": 0,
    "forget_guidance": 1,
    "retain_guidance": 1,
}


Run = TypeVar("Run", bound=ConceptConfig)


@dataclass(frozen=True)
class ConceptPlan:
    """A run of `erase concept` with nothing left open.

    `facts` are what, beside the settings, decides the result: a run is resumed only where they
    are as they were. `sets` are the images that are given, by the name of their set; the others
    are rendered. `inputs` are the files and folders that it reads, `notes` what the user should
    hear of before it starts.
    """

    config: ConceptConfig
    source: ModelSource
    concept: Concept
    sets: Mapping[str, Images]
    facts: dict[str, Any]
    inputs: tuple[str | Path | None, ...]
    notes: tuple[str, ...]

    @property
    def family(self) -> Family:
        """What kind of pipeline it is."""
        return family_of(self.source)


def plan(
    config: Run,
    replay: Replay[Run] | None = None,
    *,
    device: str | None = None,
    fetch: bool = True,
) -> ConceptPlan:
    """Resolve the model, the concept and all defaults; writes nothing.

    `replay` is the file that the configuration was read from, where that is of another method.
    `fetch` allows a hub model that is not here to be downloaded. Raises InputError for anything
    that cannot be used.
    """
    source = resolve(config.model, config.revision, fetch=fetch, config_from=config.config_from)
    family = family_of(source)
    config = config.replace(method=canonical(config.method))
    method = find_method(config.method, family.task.family).method
    notes: tuple[str, ...] = ()
    if not method.images:
        config, notes = _without_images(config, replay)
    concept, sets = _what(config, source)
    if not method.images:
        sets = {name: _captions(name, concept, sets) for name in method.sets}
    check_filters(config, concept, sets)

    def filled(config: Run) -> Run:
        return _resolved(config, source, concept, family)

    notes += tuple(concept.notes)
    if replay is None:
        config = filled(config)
    else:
        config = filled(replay.without_defaults(config, filled))
        notes += tuple(filter(None, [replay.left_out(config)]))
    _check(config, source, family, device)
    facts = {
        "base": source.fingerprint(),
        "prompts": fingerprint([concept.forget, concept.anchors, concept.retain]),
        "images": {name: _images_hash(found) for name, found in sets.items()} or None,
        "versions": {
            name: version
            for name, version in versions().items()
            if name in ("torch", "diffusers", "transformers")
        },
    }
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
    return ConceptPlan(config, source, concept, sets, facts, inputs, notes)


def _what(config: ConceptConfig, source: ModelSource) -> tuple[Concept, dict[str, Images]]:
    """What to forget and to keep, and the images that are given."""
    if isinstance(config, ClassConfig):
        return class_sets(config, source)
    root = prompts_root(config.prompts)
    own = own_classes(source, class_lists(root))
    if own is not None:
        concept = find_classes(own, config.concept, config.anchor)
        return concept, given_sets(config, concept)
    concept = find_concept(
        config.concept,
        root,
        anchor=config.anchor,
        forget=read_prompts(config.forget_prompts) if config.forget_prompts else None,
        retain=read_prompts(config.retain_prompts) if config.retain_prompts else None,
    )
    check_drawn(source, concept, config)
    return concept, given_sets(config, concept)


def _without_images(config: Run, replay: Replay[Run] | None) -> tuple[Run, tuple[str, ...]]:
    """Leave open how many images there are, for a method of captions alone, and say so.

    Filters that only a replayed file has go too; those that the user gave are refused elsewhere.
    """
    given = {*COUNTS, *FILTERS} if replay is None else replay.given
    notes = tuple(
        f"{config.method} reads prompts alone, so --{name.replace('_', '-')} has no effect"
        for name in COUNTS
        if name in given and getattr(config, name) is not None
    )
    return config.replace(**dict.fromkeys((*COUNTS, *(set(FILTERS) - given)))), notes


def _captions(name: str, concept: Concept, given: Mapping[str, Images]) -> CaptionedImages:
    """The captions of a set without its images."""
    images = given.get(name)
    if isinstance(images, CaptionedImages):
        return CaptionedImages((), images.captions)
    return CaptionedImages((), prompts_of(concept, name))


def _images_hash(images: Images) -> str:
    if isinstance(images, LabelledSet):
        digests = [hashlib.sha256(t.numpy().tobytes()) for t in (images.images, images.labels)]
        return fingerprint([digest.hexdigest() for digest in digests])
    return fingerprint([[hash_file(path) for path in images.paths], images.captions])


def _resolved(config: Run, source: ModelSource, concept: Concept, family: Family) -> Run:
    """Fill what the user left open: from the method, the concept, then the size's recipe."""
    found = find_method(config.method, family.task.family)
    own = concept.recipe
    if isinstance(config, ClassConfig):
        own = class_recipe(concept, config)
    if config.resolution is None:
        config = config.replace(resolution=source.resolution())
    config = fill(config, found, family.task.family, config.resolution or 0)
    config = config.with_defaults(own)
    config = config.with_defaults(recipe(config.resolution or 0))
    if not found.method.images:
        config = config.replace(**dict.fromkeys(COUNTS))
    return config.replace(max_train_steps=0) if found.method.closed_form else config


def _check(config: ConceptConfig, source: ModelSource, family: Family, device: str | None) -> None:
    method = build_method(config, family.task.family)
    check_least(config, {**LEAST, "max_train_steps": 0 if method.closed_form else 1})
    for name in ("caption_dropout", "ema_decay"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            option = name.replace("_", "-")
            raise InputError(f"--{option} is {value}.", "Give a value from 0 to below 1.")
    if (config.resolution or 0) % source.latent_factor():
        raise InputError(
            f"--resolution is {config.resolution}.",
            f"Give a multiple of {source.latent_factor()} pixels.",
        )
    schedules = [kind.value for kind in SchedulerType]
    if config.lr_scheduler not in schedules:
        raise InputError(
            f"--lr-scheduler is {config.lr_scheduler}.", f"Known: {', '.join(schedules)}."
        )
    check_device(device or "cpu")
    needed = {
        "tensorboard": config.report_to == "tensorboard",
        "wandb": config.report_to == "wandb",
    }
    needed["bitsandbytes"] = config.use_8bit_adam
    for package, wanted in needed.items():
        if wanted and importlib.util.find_spec(package) is None:
            option = "--use-8bit-adam" if package == "bitsandbytes" else f"--report-to {package}"
            raise InputError(
                f"{option} needs {package}, which is not installed.",
                f"pip install {package}, or leave the option out.",
            )
    # A selection that matches nothing shows before anything is rendered.
    skeleton = family.skeleton(source)
    method.check(skeleton, family.task.family)
    check_trained(skeleton, config)
    validation_prompts(config)
