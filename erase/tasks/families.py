"""Which task, encoding and network belong to a pipeline: the one place that lists the families."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch.nn import Module

from erase.errors import InputError
from erase.models.loading import ModelSource
from erase.tasks import class_conditional, sd3, sdxl, text_to_image
from erase.tasks.denoiser import DenoiserTask, LatentCache


@dataclass(frozen=True)
class Family:
    """What training needs to know of one kind of pipeline."""

    title: str
    """For people."""
    task: type[DenoiserTask]
    encode: Callable[..., LatentCache]
    """`(pipeline, sets, anchors, *, size, device)`: all that training reads."""
    model: Any
    """Class of the network that is trained."""
    component: str = "unet"
    """Its name in the pipeline, and its folder."""
    scheduler: Any = DDPMScheduler
    """Class that makes samples noisy in training, built from the pipeline's own schedule."""
    frozen: tuple[str, ...] = ()
    """Parts that training does without, for everything is encoded before."""

    @property
    def unloaded(self) -> dict[str, Any]:
        """What tells `load_pipeline` to leave the frozen parts out."""
        return dict.fromkeys(self.frozen)

    def skeleton(self, source: ModelSource) -> Module:
        """The network with names and shapes but without weights, on the meta device."""
        with torch.device("meta"):
            settings = self.model.load_config(str(source.path / self.component))
            network: Module = self.model.from_config(settings)
        return network

    def training_scheduler(self, pipeline: Any) -> Any:
        """What makes samples noisy in training, with the pipeline's noise schedule."""
        return self.scheduler.from_config(pipeline.scheduler.config)


FAMILIES = {
    "StableDiffusionPipeline": Family(
        "Stable Diffusion 1.x and 2.x",
        text_to_image.TextToImageTask,
        text_to_image.encode,
        UNet2DConditionModel,
        frozen=("vae", "text_encoder"),
    ),
    "StableDiffusionXLPipeline": Family(
        "Stable Diffusion XL",
        sdxl.SDXLTask,
        sdxl.encode,
        UNet2DConditionModel,
        frozen=("vae", "text_encoder", "text_encoder_2"),
    ),
    "StableDiffusion3Pipeline": Family(
        "Stable Diffusion 3",
        sd3.SD3Task,
        sd3.encode,
        SD3Transformer2DModel,
        component="transformer",
        scheduler=FlowMatchEulerDiscreteScheduler,
        frozen=("vae", "text_encoder", "text_encoder_2", "text_encoder_3"),
    ),
    "ClassConditionalPipeline": Family(
        "class-conditional DDPM",
        class_conditional.ClassConditionalTask,
        class_conditional.encode,
        UNet2DModel,
    ),
}


def family_of(source: ModelSource) -> Family:
    """The family of a model; InputError for one that cannot be unlearned."""
    kind = source.pipeline_class()
    if kind not in FAMILIES:
        known = ", ".join(f"{name} ({family.title})" for name, family in FAMILIES.items())
        raise InputError(
            f"{source.name} is a {kind}, which cannot be unlearned.", f"Known: {known}."
        )
    return FAMILIES[kind]
