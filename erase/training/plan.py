"""Everything that `erase concept` can find out before it touches anything."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.optimization import SchedulerType

from erase import registry
from erase.config import ConceptConfig, check_least
from erase.core.checks import check_device
from erase.core.params import select_parameters
from erase.data.captioned import CaptionedImages
from erase.data.concepts import Concept, find_concept
from erase.data.prompts import prompts_root, read_prompts
from erase.errors import InputError
from erase.models.loading import ModelSource, resolve
from erase.record import fingerprint, hash_file, versions
from erase.tasks.protocol import Method
from erase.tasks.text_to_image import TextToImageTask
from erase.training.filters import check_filters
from erase.training.recipes import recipe
from erase.training.sets import check_drawn, given_sets

ALIASES = {"joint": "lur-b"}
PIPELINES = ("StableDiffusionPipeline",)
LEAST: Mapping[str, float] = {
    "max_train_steps": 1,
    "train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "num_forget_images": 1,
    "num_retain_images": 1,
    "render_steps": 1,
    "render_batch_size": 1,
    "resolution": 1,
    "lr_warmup_steps": 0,
    "checkpointing_steps": 0,
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


@dataclass(frozen=True)
class Plan:
    """A run of `erase concept` with nothing left open.

    `facts` are what, beside the settings, decides the result: a run is resumed only where they
    are as they were. `sets` are the images that are given, by the name of their set; the others
    are rendered. `inputs` are the files and folders that it reads.
    """

    config: ConceptConfig
    source: ModelSource
    concept: Concept
    sets: Mapping[str, CaptionedImages]
    facts: dict[str, Any]
    inputs: tuple[str | Path | None, ...]


def plan(config: ConceptConfig, *, device: str | None = None, fetch: bool = True) -> Plan:
    """Resolve the model, the concept and all defaults; writes nothing.

    `fetch` allows a hub model that is not here to be downloaded. Raises InputError for anything
    that cannot be used.
    """
    source = resolve(config.model, config.revision, fetch=fetch)
    kind = source.pipeline_class()
    if kind not in PIPELINES:
        raise InputError(
            f"{config.model} is a {kind}, which cannot be unlearned yet.",
            f"Known: {', '.join(PIPELINES)} (Stable Diffusion 1.x and 2.x).",
        )
    concept = find_concept(
        config.concept,
        prompts_root(config.prompts),
        anchor=config.anchor,
        forget=read_prompts(config.forget_prompts) if config.forget_prompts else None,
        retain=read_prompts(config.retain_prompts) if config.retain_prompts else None,
    )
    check_drawn(source, concept, config)
    check_filters(config, concept)
    sets = given_sets(config, concept)
    config = _resolved(config, source, concept)
    _check(config, source, device)
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
    )
    return Plan(config, source, concept, sets, facts, inputs)


def _images_hash(images: CaptionedImages) -> str:
    return fingerprint([[hash_file(path) for path in images.paths], images.captions])


def _resolved(config: ConceptConfig, source: ModelSource, concept: Concept) -> ConceptConfig:
    """Fill what the user left open: from the concept, the size's recipe, then the method."""
    config = config.replace(method=ALIASES.get(config.method, config.method))
    if config.resolution is None:
        config = config.replace(resolution=source.resolution())
    config = config.with_defaults(concept.recipe)
    config = config.with_defaults(recipe(config.resolution or 0))
    settings = registry.load("methods", config.method).Settings()
    return config.with_defaults(
        {name: getattr(settings, name, None) for name in ("alpha", "forget_weight", "meta_mode")}
    )


def _check(config: ConceptConfig, source: ModelSource, device: str | None) -> None:
    check_least(config, LEAST)
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
    build_method(config, TextToImageTask.family)
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
    with torch.device("meta"):
        # Names and shapes only: a selection that matches nothing shows before anything is rendered.
        settings = UNet2DConditionModel.load_config(str(source.path / "unet"))
        unet = UNet2DConditionModel.from_config(settings)
    select_parameters(unet, config.trainable)


def build_method(config: ConceptConfig, family: str) -> Method:
    """The method with its settings; InputError when it is not defined for the task's family."""
    module = registry.load("methods", config.method)
    if family not in module.Method.families:
        fitting = [
            name
            for name in registry.names("methods")
            if family in registry.load("methods", name).Method.families
        ]
        raise InputError(
            f"The method {config.method!r} is not defined for {family} models.",
            f"Defined there: {', '.join(fitting)}.",
        )
    names = set(module.Settings.__dataclass_fields__)
    given = {
        name: getattr(config, name)
        for name in ("alpha", "forget_weight", "meta_mode")
        if name in names and getattr(config, name) is not None
    }
    method: Method = module.Method(module.Settings(**given))
    return method
