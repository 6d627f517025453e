"""The trained parts and parameters of a diffusion run (weights or adapters), and its task."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn import Module, ModuleDict, Parameter

from erase.config.concept import ConceptConfig
from erase.core.params import select_parameters
from erase.core.rng import derive_seed
from erase.errors import InputError
from erase.models.lora import add_lora, lora_targets
from erase.runs.processes import Shard
from erase.tasks.denoiser import DenoiserTask
from erase.tasks.family import Family
from erase.tasks.latents import LatentCache
from erase.tasks.live_text import LiveText
from erase.tasks.protocol import Method

TEXT = "text"
"""The choice of `--trainable` that trains the text encoders instead of the denoiser."""
TEXT_LAYERS = r"encoder\.layers\.|final_layer_norm"
"""What is trained of them: all but the embeddings of words and places, as in AdvUnlearn's code."""
NO_ADAPTERS = {
    "uce": "edits the weights themselves",
    "shs": "re-initialises some of the weights",
    "retrain": "starts from fresh weights",
}
"""Methods that do more than train the weights, and so cannot work on adapters, with the reason."""


def check_text(method: Method, family: Family, config: ConceptConfig) -> None:
    """Raise InputError for text encoders that the method or the model's family does not show."""
    if config.trainable == TEXT and not method.reads_text:
        raise InputError(
            f"{config.method} trains the denoiser; it cannot train the text encoder.",
            "Give another --trainable, or a method that can: advunlearn.",
        )
    if method.reads_text and family.texts is None:
        raise InputError(
            f"{config.method} looks into the text encoders, which is not possible for"
            f" {family.title} here.",
            "Give a model of Stable Diffusion 1.x, 2.x or XL, or another method.",
        )


def trained_parts(config: ConceptConfig, family: Family) -> tuple[str, ...]:
    """Names of the parts of the pipeline that the run trains."""
    return family.encoders if config.trainable == TEXT else (family.component,)


def check_trained(model: Module, config: ConceptConfig) -> None:
    """Raise InputError when nothing would be trained; `model` may be on the `meta` device."""
    if config.trainable == TEXT:
        if config.lora_rank is not None or config.lora_alpha is not None:
            raise InputError(
                "--lora-rank trains adapters on the denoiser, and --trainable text the text"
                " encoder.",
                "Leave --lora-rank out, or give --trainable xattn.",
            )
        return
    if config.lora_rank is None:
        if config.lora_alpha is not None:
            raise InputError("--lora-alpha is given without --lora-rank.", "Give --lora-rank too.")
        select_parameters(model, config.trainable or "full")
        return
    if config.method in NO_ADAPTERS:
        raise InputError(
            f"{config.method} {NO_ADAPTERS[config.method]}, so --lora-rank does not apply.",
            "Leave it out; erase export --format lora takes an adapter from the result.",
        )
    lora_targets(model, config.trainable or "full", config.lora_rank)


def live_text(pipeline: Any, family: Family, size: int, device: torch.device) -> LiveText:
    """The pipeline's text encoders on the device, frozen, in evaluation mode."""
    encoders = [getattr(pipeline, name) for name in family.encoders]
    for encoder in encoders:
        encoder.to(device).requires_grad_(False).eval()
    assert family.texts is not None  # `check_text`
    return LiveText(pipeline, family.texts, encoders, size)


def trained_text(encoders: Mapping[str, Module], model: Module) -> dict[str, Parameter]:
    """The parameters of the text encoders that the run trains; the denoiser `model` is frozen."""
    model.requires_grad_(False).eval()
    whole = ModuleDict(dict(encoders)).train()
    return select_parameters(whole, TEXT_LAYERS)


def trained_parameters(model: Module, config: ConceptConfig) -> dict[str, Parameter]:
    """The parameters that the run trains, by name; all others are frozen.

    With `--lora-rank` adapters are put on the model, in place, and only they are trained.
    InputError when nothing is chosen.
    """
    if config.lora_rank is None:
        return select_parameters(model, config.trainable or "full")
    return add_lora(
        model,
        config.trainable or "full",
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        seed=derive_seed(config.seed, "lora"),
    )


def denoiser_task(
    config: ConceptConfig,
    family: Family,
    model: Module,
    parameters: Mapping[str, Parameter],
    *,
    scheduler: Any,
    cache: LatentCache,
    shard: Shard,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    text: LiveText | None = None,
) -> DenoiserTask:
    """Build the task of a run; the dry run's estimate builds it on simulated tensors.

    Args:
        config: the run's configuration, resolved.
        family: of the model.
        model: the denoiser.
        parameters: what `trained_parameters` returns.
        scheduler: `family.training_scheduler` of the pipeline.
        cache: the encoded sets.
        shard: this process's part of the batch.
        device: where the model is.
        autocast: makes the context of each model call.
        text: the text encoders, for a method that reads them.
    """
    mirrored = {"flip": True} if config.flip else {}
    return family.task(
        model=model,
        scheduler=scheduler,
        cache=cache,
        parameters=parameters,
        shard=shard,
        seed=config.seed,
        steps=config.max_train_steps or 0,
        device=device,
        condition_dropout=config.caption_dropout or 0.0,
        target_grad=config.target_grad,
        frozen_anchor=bool(config.frozen_anchor),
        precision="bf16" if config.mixed_precision == "bf16" else None,
        autocast=autocast,
        text=text,
        **mirrored,
    )
