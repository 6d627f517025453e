"""What training needs to know of one kind of pipeline; a file of `erase/tasks/` holds one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn import Module

from erase.files import read_json
from erase.models.loading import ModelSource
from erase.models.schedules import convert, stored_scheduler
from erase.tasks.denoiser import DenoiserTask, LatentCache


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
        return convert(pipeline.scheduler, self.scheduler)

    def stored_schedule(self, source: ModelSource) -> Any:
        """The same from the model's folder.

        Raises InputError for a schedule of another kind than the family's (EDM, flow matching…).
        """
        return convert(stored_scheduler(source.path), self.scheduler)


def setting(folder: Path, part: str, name: str) -> int:
    """A number in the configuration of a part of the model in `folder`."""
    return int(read_json(folder / part / "config.json")[name])
