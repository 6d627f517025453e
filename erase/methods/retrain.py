"""Retrain: train from scratch without the forget set, the gold standard that others are held to."""

from typing import ClassVar

from erase.config.families import CLASS_CONDITIONAL
from erase.config.recipes import Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import cross_entropy
from erase.core.rng import derive_seed
from erase.tasks.denoising import retain_gradient
from erase.tasks.method import BaseMethod, NoSettings, put_gradients, single_loss_step
from erase.tasks.protocol import ClassifierTask, Denoiser, Reduce

RECIPES: dict[str, Recipe] = {
    # SHs trains for 160 epochs.
    "cifar10": published(
        "SalUn: Classification, the rate × 0.1 at epochs 91 and 136",
        epochs=182,
        learning_rate=0.1,
        lr_scheduler="multistep",
    ),
    "cifar100": published(
        "SalUn: Classification, as CIFAR-10",
        epochs=182,
        learning_rate=0.1,
        lr_scheduler="multistep",
    ),
    "celeba": published(
        "SHs paper, CelebA-HQ (from ImageNet weights: --pretrained)",
        epochs=10,
        learning_rate=1e-3,
        lr_scheduler="constant",
    ),
    "digits": ours(
        "measured here: 98.3% of the test digits",
        epochs=20,
        learning_rate=0.1,
        lr_scheduler="cosine",
    ),
    "class-conditional": published(
        "SalUn and SA: the CIFAR-10 DDPM's training",
        learning_rate=2e-4,
        max_train_steps=800_000,
        train_batch_size=128,
        lr_scheduler="constant",
        lr_warmup_steps=0,
        max_grad_norm=1.0,
        ema_decay=0.9999,
        flip=True,
    ),
    "class-conditional-small": ours(
        "as `erase train ddpm --dataset digits`",
        learning_rate=1e-3,
        max_train_steps=2000,
        train_batch_size=64,
        lr_warmup_steps=100,
        ema_decay=0.995,
    ),
}
SEARCH: dict[str, tuple[float, float]] = {}


Settings = NoSettings


class Method(BaseMethod):
    """Fresh weights, then the mean of cross-entropy over D_r."""

    families: ClassVar = frozenset({"classifier"})

    def prepare(self, task: ClassifierTask) -> None:
        """Fresh initial weights and statistics."""
        task.reset(derive_seed(task.seed, "initial weights"))

    def step(self, task: ClassifierTask, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of L_r, in `.grad`."""
        batch = task.batch("retain", step)
        loss = task.fixed(
            lambda: cross_entropy(task.logits(batch.images), batch.labels).mean(), "retain", step
        )
        return single_loss_step(task, loss, reduce, retain=True)


class DenoiserMethod(BaseMethod):
    """Fresh weights, then the denoising loss on D_r (class-conditional models only)."""

    families: ClassVar = frozenset({CLASS_CONDITIONAL})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def prepare(self, task: Denoiser) -> None:
        """Fresh initial weights."""
        task.reset(derive_seed(task.seed, "initial weights"))

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The gradient of L_r, in `.grad`."""
        gradient, stats = retain_gradient(
            task, task.mean_losses("retain", step, task.denoising), reduce
        )
        put_gradients(task, gradient)
        return stats
