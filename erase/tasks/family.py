"""What training needs to know of one kind of pipeline; a file of `erase/tasks/` holds one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn import Module

from erase.config.fields import shown
from erase.errors import InputError
from erase.models.configs import network_of, read_config
from erase.models.loading import ModelSource
from erase.models.schedules import convert, stored_scheduler
from erase.tasks.denoiser import DenoiserTask
from erase.tasks.latents import LatentCache


@dataclass(frozen=True)
class Family:
    """A family of models, by the pipeline that renders with them."""

    pipeline: str
    """Name of the class that `model_index.json` asks for."""
    title: str
    """For people."""
    task: type[DenoiserTask]
    encode: Callable[..., LatentCache]
    """`(pipeline, sets, anchors, *, size, device)`: all that training reads."""
    conditions: Callable[[Path, int], dict[str, Tensor]]
    """`(folder, rows)`: tensors of the shapes that the denoiser is shown, without content, from the
    configurations in the model's folder; the dry run's estimate uses them."""
    model: Any
    """Class of the network that is trained."""
    component: str = "unet"
    """Its name in the pipeline, and its folder."""
    scheduler: Any = DDPMScheduler
    """Class that makes samples noisy in training, built from the pipeline's own schedule."""
    frozen: tuple[str, ...] = ()
    """Parts that training does without, for everything is encoded before."""
    texts: Callable[[Any, list[str], int], dict[str, Tensor]] | None = None
    """`(pipeline, prompts, size)`: the conditions of prompts, differentiable in what the text
    encoders read; None for a family that is attacked otherwise."""

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the text encoders."""
        return tuple(name for name in self.frozen if name.startswith("text_encoder"))

    def unloaded(self, *, text: bool = False) -> dict[str, Any]:
        """What tells `load_pipeline` to leave frozen parts out; with `text`, not the encoders."""
        return dict.fromkeys(name for name in self.frozen if not (text and name in self.encoders))

    def skeleton(self, source: ModelSource) -> Module:
        """The network with names and shapes but without weights, on the meta device."""
        with torch.device("meta"):
            network: Module = network_of(self.model, source.path / self.component)
        return network

    def training_scheduler(self, pipeline: Any) -> Any:
        """What makes samples noisy in training, with the pipeline's noise schedule."""
        return convert(pipeline.scheduler, self.scheduler)

    def stored_schedule(self, source: ModelSource) -> Any:
        """The same from the model's folder.

        Raises InputError for a schedule of another kind than the family's (EDM, flow matching…).
        """
        return convert(stored_scheduler(source.path), self.scheduler)


def setting(folder: Path, part: str, name: str) -> int:
    """A number in the configuration of a part of the model in `folder`."""
    file = folder / part / "config.json"
    value = read_config(file).get(name)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise InputError(
            f"{file} is not what it should be: {name} is {shown(value)}, no size.",
            "Restore the file from what wrote it.",
        )
    return value
