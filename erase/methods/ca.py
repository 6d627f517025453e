"""CA: concept ablation, the concept's name shows the anchor (Kumari et al., ICCV 2023)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.core.meta import Stats
from erase.tasks.denoising import WithAnchorImages, two_gradients, weighted
from erase.tasks.method import BaseMethod, put_gradients
from erase.tasks.protocol import Denoiser, Noised, Reduce

DENOISER: dict[str, dict[str, Any]] = {
    # Cross-attention keys and values; 2e-6 an image (two GPUs with four each); 200 anchor images.
    "large": {
        "learning_rate": 1.6e-5,
        "max_train_steps": 100,
        "trainable": r"attn2\.to_[kv]\.",
        "num_anchor_images": 200,
    },
    "class-conditional": {},
    # Of three tried on mini-sd's digit nine: benchmarks/diffusion_tuning.py.
    "small": {"regulariser": "retain"},
}
REGULARISERS = ("anchor", "retain")


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of concept ablation."""

    retain_weight: float = option(
        1.0, "Weight λ of the denoising loss that regularises (≥ 0).", least=0
    )
    regulariser: str = option(
        "anchor", "Images of that loss: anchor, as in the source, or retain.", REGULARISERS
    )


class Method(WithAnchorImages, BaseMethod):
    """MSE(ε_θ(x*_t|c), sg ε_θ(x*_t|c*)) + λ MSE(ε, ε_θ(x*_t|c*)) on images x* of the anchor c*.

    The model-based form of the source. The concept's own images are not looked at.
    """

    families: ClassVar = DENOISERS

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of the two terms, in `.grad`."""

        def ablate(batch: Noised) -> Tensor:
            return task.mismatch(replace(batch, condition=batch.anchor, anchor=batch.condition))

        retain, forget, stats = two_gradients(
            task,
            task.mean_losses(self.settings.regulariser, step, task.denoising, "regulariser"),
            task.mean_losses("anchor", step, ablate),
            reduce,
        )
        put_gradients(task, weighted(forget, retain, self.settings.retain_weight))
        return stats
