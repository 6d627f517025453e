"""SalUn: random labels, but only salient weights move (Fan et al., ICLR 2024)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from erase.config.base import Config
from erase.config.families import DENOISERS
from erase.config.fields import option
from erase.config.recipes import SALUN_DDPM, Recipe, ours, published
from erase.core.meta import Stats
from erase.core.objectives import cross_entropy, negative_cross_entropy, noise_mse
from erase.core.params import as_list, snapshot
from erase.core.rng import generator
from erase.core.trim import Mask, shrink, top_share
from erase.tasks.denoising import summed_gradient, two_gradients, weighted
from erase.tasks.method import BaseMethod, Split, TwoLossMethod, gradient_of, put_gradients
from erase.tasks.protocol import Batch, ClassifierTask, Denoiser, Noised, Reduce

RECIPES: dict[str, Recipe] = {
    "cifar10": published(
        "SalUn: Classification/unlearn/RL.py (cifar10) and README",
        epochs=10,
        learning_rate=0.013,
        mask=0.5,
        order="passes",
    ),
    "cifar10:50": published(
        "SHs: Classification/sh/main_0.5_cifar10.sh",
        epochs=10,
        learning_rate=0.05,
        mask=0.2,
        order="passes",
    ),
    "cifar100": published(
        "SalUn: Classification/unlearn/RL.py (cifar100); rate of SHs' run",
        epochs=10,
        learning_rate=5e-3,
        mask=0.5,
    ),
    "cifar100:50": published(
        "SalUn: Classification/unlearn/RL.py (cifar100); rate of SHs' run",
        epochs=10,
        learning_rate=0.01,
        mask=0.5,
    ),
    "celeba": published("SHs paper, CelebA-HQ", epochs=5, learning_rate=3e-3, mask=0.5),
    "digits": ours(
        "CIFAR-10's rate, shorter", epochs=5, learning_rate=0.013, mask=0.5, order="passes"
    ),
    "nudity": published(
        "SalUn: SD/train-scripts/nsfw_removal.py and generate_mask.py",
        learning_rate=1e-5,
        epochs=1,
        train_batch_size=8,
        retain_weight=0.1,
        mask_guidance=8.5,
    ),
    "class": published(
        "SalUn: SD/train-scripts/random_label.py and README",
        learning_rate=1e-5,
        epochs=5,
        train_batch_size=8,
        retain_weight=0.5,
        mask_guidance=8.5,
    ),
    "style": ours(
        "SalUn's for nudity",
        learning_rate=1e-5,
        epochs=1,
        train_batch_size=8,
        retain_weight=0.1,
        mask_guidance=8.5,
    ),
    # α 1e-3 with the retain term summed over the 3 × 32 × 32 values of an image: 3.07 as a mean.
    "class-conditional": published(
        "SalUn: DDPM/runners/diffusion.py and README",
        **SALUN_DDPM,
        flip=True,
        retain_weight=3.072,
        mask_guidance=3.0,
        mask_clip=1.0,
    ),
    "small": ours(
        "the best of a small search on mini-sd's digit nine: benchmarks/diffusion_tuning.py",
        retain_weight=1.0,
    ),
}
SEARCH: dict[str, tuple[float, float]] = {"mask": (0.1, 1.0)}
FORMS = ("random-label", "ascent", "proximal")
FORM_HELP = (
    "random-label; ascent: minus the loss on D_f instead; proximal: no mask, the changes of all"
    " weights are soft-thresholded after each step, at a share that falls from `mask` to 0."
)


@dataclass(frozen=True)
class Settings(Config):
    """Hyper-parameters of SalUn."""

    mask: float = option(0.5, "Share of the weights that move (0 to 1).", above=0, most=1)
    form: str = option("random-label", FORM_HELP, FORMS)
    order: str = option(
        "mixed",
        "An epoch: mixed, batches of both sets (the source on CIFAR-100); or passes, one over D_f,"
        " then one over D_r (the source on CIFAR-10).",
        ("mixed", "passes"),
    )


class Method(TwoLossMethod):
    """CE of D_f with labels other than its own, and of D_r with the true ones, under a mask.

    Mixed, the two sets share a batch in the proportion of their sizes, and an epoch goes over
    both, as in the source's concatenated loader; the loss is the mean over the whole batch. An
    ascent is a pass of −CE over D_f alone.
    """

    families: ClassVar = frozenset({"classifier"})
    epoch_over: ClassVar = "all"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._mask: Mask | None = None
        self._original: list[Tensor] = []
        self._steps = 0
        self._done = 0

    def _passes(self, task: ClassifierTask) -> tuple[int, int]:
        """Steps of a pass over D_f, and of the one over D_r that follows."""
        forget, retain = (
            math.ceil(task.size(subset) / task.batch_size) for subset in ("forget", "retain")
        )
        return forget, 0 if self.settings.form == "ascent" else retain

    def steps_per_epoch(self, task: ClassifierTask) -> int:
        """Steps of an epoch over both sets, or of an ascent over D_f."""
        if self.settings.order == "passes" or self.settings.form == "ascent":
            return sum(self._passes(task))
        return super().steps_per_epoch(task)

    def prepare(self, task: ClassifierTask) -> None:
        """The mask: top share of the absolute summed gradient of −CE(D_f), evaluation mode."""
        parameters = list(task.parameters.values())
        self._steps = self.total_steps(task)
        if self.settings.form == "proximal":
            self._original = snapshot(parameters)
            everything = [torch.ones_like(p, dtype=torch.bool) for p in parameters]
            self._mask = Mask(parameters, everything)
            return
        total = [torch.zeros_like(p) for p in parameters]
        with task.evaluating():
            for batch in task.ordered("forget"):
                gradients, _, _ = gradient_of(task, lambda b=batch: _ascent(task, b))  # type: ignore[misc]
                torch._foreach_add_(total, gradients)
        self._mask = Mask(parameters, top_share([t.abs() for t in total], self.settings.mask))

    def split(self, task: ClassifierTask, step: int) -> Split:
        """The masked gradients of the two parts of the batch; in a pass, the other one is None."""
        self._done = step + 1
        if self.settings.order == "passes" or self.settings.form == "ascent":
            return self._pass(task, step)
        return self._mixed(task, step)

    def _pass(self, task: ClassifierTask, step: int) -> Split:
        assert self._mask is not None
        forget, retain = self._passes(task)
        epoch, place = divmod(step, forget + retain)
        if place < forget:
            number = epoch * forget + place
            batch = task.batch("forget", number)
            labels, sign = random_labels(task, batch.labels, number), 1.0
            if self.settings.form == "ascent":
                labels, sign = batch.labels, -1.0
        else:
            number = epoch * retain + place - forget
            batch = task.batch("retain", number)
            labels, sign = batch.labels, 1.0
        loss = task.fixed(
            lambda: sign * cross_entropy(task.logits(batch.images), labels).mean(),
            "forget" if place < forget else "retain",
            number,
        )
        gradients, value, norm = gradient_of(task, loss)
        masked = self._mask.gradients(gradients)
        if place < forget:
            return Split(None, masked, Stats(math.nan, value, norm))
        return Split(masked, None, Stats(value, math.nan, norm))

    def _mixed(self, task: ClassifierTask, step: int) -> Split:
        assert self._mask is not None
        n_forget, n_retain = task.size("forget"), task.size("retain")
        share = round(task.batch_size * n_forget / (n_forget + n_retain))
        n = min(max(1, share), task.batch_size - 1)
        forget = task.batch("forget", step, n)
        retain = task.batch("retain", step, task.batch_size - n)
        images = torch.cat([forget.images, retain.images])
        labels = torch.cat([random_labels(task, forget.labels, step), retain.labels])

        def part(rows: slice) -> Tensor:
            return cross_entropy(task.logits(images), labels)[rows].sum() / len(labels)

        # Both passes see the whole batch, for its statistics; the first one moves the running ones.
        losses = [
            task.fixed(lambda: part(slice(n, None)), "mixed", step),
            task.fixed(lambda: part(slice(n)), "mixed", step, moves_buffers=False),
        ]
        (g_retain, l_retain, r_norm), (g_forget, l_forget, f_norm) = (
            gradient_of(task, loss) for loss in losses
        )
        stats = Stats(l_retain, l_forget, 0.0, r_norm, f_norm)
        return Split(self._mask.gradients(g_retain), self._mask.gradients(g_forget), stats)

    def after_step(self, task: ClassifierTask) -> None:
        """Put the frozen weights back: weight decay and momentum would move them."""
        assert self._mask is not None
        if self.settings.form == "proximal":
            share = self.settings.mask * (1 - self._done / max(self._steps, 1))
            shrink(list(task.parameters.values()), self._original, share)
        else:
            self._mask.put_back()


def random_labels(task: ClassifierTask, labels: Tensor, step: int) -> Tensor:
    """Labels drawn evenly from the K − 1 classes that are not the true one, ``[B]``."""
    source = generator(task.seed, step, "random labels")
    shift = torch.randint(1, task.classes, labels.shape, generator=source)
    return (labels + shift.to(labels.device)) % task.classes


def _ascent(task: ClassifierTask, batch: Batch) -> Tensor:
    return negative_cross_entropy(task.logits(batch.images), batch.labels).sum()


@dataclass(frozen=True)
class DenoiserSettings(Config):
    """Hyper-parameters of SalUn on denoisers."""

    mask: float = option(0.5, "Share of the weights that move (0 to 1).", above=0, most=1)
    form: str = option("random-label", FORM_HELP, FORMS)
    retain_weight: float = option(0.1, "Weight α of the retain loss (≥ 0).", least=0)
    mask_guidance: float = option(
        1.0,
        "Guidance scale s of the prediction behind the mask, ε_∅ + s(ε_c − ε_∅); 1: none. The"
        " source's (1 + 7.5)ε_c − 7.5ε_∅ is 8.5.",
    )
    mask_clip: float = option(
        0.0,
        "Greatest norm of a batch's gradient behind the mask, of the loss summed over a sample's"
        " values, before it is added (the source on DDPM: 1); 0: any.",
        least=0,
    )


class DenoiserMethod(BaseMethod):
    """MSE(ε_θ(x_t|c), sg ε_θ(x_t|c')) + α L_r under a mask.

    The mask marks the top share of the absolute summed gradient of −MSE(ε, ε_θ(x_t|c)) over D_f.
    """

    families: ClassVar = DENOISERS

    def __init__(self, settings: DenoiserSettings) -> None:
        self.settings = settings
        self._mask: Mask | None = None
        self._original: list[Tensor] = []
        self._done = 0

    def prepare(self, task: Denoiser) -> None:
        """The mask, from every forget image once; for the proximal form, the original weights."""
        if self.settings.form == "proximal":
            self._original = snapshot(task.parameters)
            return
        clip = self.settings.mask_clip

        def ascent(batch: Noised) -> Tensor:
            prediction = task.guided(batch, self.settings.mask_guidance)
            values = batch.noisy[0].numel() if clip else 1
            return -values * noise_mse(prediction, task.target(batch))

        total = summed_gradient(task, "forget", "mask", ascent, clip=clip)
        share = self.settings.mask
        self._mask = Mask(as_list(task.parameters), top_share([t.abs() for t in total], share))

    def step(self, task: Denoiser, step: int, reduce: Reduce | None) -> Stats:
        """The masked gradient, in `.grad`."""
        self._done = step + 1
        losses = task.losses(step)
        forget_losses = losses.forget
        if self.settings.form == "ascent":
            forget_losses = task.mean_losses("forget", step, lambda b: -task.denoising(b))
        retain, forget, stats = two_gradients(task, losses.retain, forget_losses, reduce)
        total = weighted(forget, retain, self.settings.retain_weight)
        put_gradients(task, self._mask.gradients(total) if self._mask else total)
        return stats

    def after_step(self, task: Denoiser) -> None:
        """Put the frozen weights back: weight decay and Adam's momentum would move them."""
        if self._mask is not None:
            self._mask.put_back()
        else:
            share = self.settings.mask * (1 - self._done / max(task.steps, 1))
            shrink(as_list(task.parameters), self._original, share)
