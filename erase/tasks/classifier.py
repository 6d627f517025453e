"""A classifier under unlearning: the losses of equations 9 and 10, and batches for all methods."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import Module, Parameter

from erase.core.meta import Mode
from erase.core.objectives import cross_entropy, negative_cross_entropy
from erase.core.params import FixedLoss, select_parameters
from erase.core.rng import batch_indices, derive_seed, generator
from erase.data.classification import Augmentation, LabelledSet, augment, center
from erase.errors import InputError
from erase.models.classifiers import Classifier
from erase.tasks.protocol import Batch, Loss, StepLosses, Subset

ORDERED_BATCH = 256


@dataclass
class ImageClassifierTask:
    """A classifier, its forget set and its retain set.

    L_r is the mean cross-entropy on D_r (eq. 9), L_f minus the mean cross-entropy on D_f (eq. 10).
    Each set has epochs of its own, so the smaller set does not shorten the larger one's. Batches,
    crops, flips and dropout depend on (seed, step) alone. Batch statistics move once a step, on the
    retain pass.

    Args:
        model: in training mode from here on; trained in full.
        forget: D_f, on the model's device; may be empty when a model is only trained.
        retain: D_r, likewise, not empty.
        augmentation: of the batches that are trained on.
        classes: number of classes K.
        epochs: that the run will take.
        batch_size: images of each set in a step.
        seed: of everything drawn.
        fresh: makes a freshly initialised model from a seed; for `reset`.
        autocast: entered around each forward pass.
        channels_last: memory format that convolutions on a GPU prefer.
    """

    model: Classifier
    forget: LabelledSet
    retain: LabelledSet
    augmentation: Augmentation
    classes: int
    epochs: int
    batch_size: int
    seed: int
    fresh: Callable[[int], Classifier] | None = None
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    channels_last: bool = False

    family: ClassVar[str] = "classifier"
    meta_mode: ClassVar[Mode] = "exact"
    precision: ClassVar[Literal["bf16"] | None] = None

    def __post_init__(self) -> None:
        if not len(self.retain):
            raise InputError("The retain set is empty.", "Forget less.")
        self.model.train()
        self._parameters: Mapping[str, Parameter] = select_parameters(self.model, "full")

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The trained weights by name: all of them, or the head's."""
        return self._parameters

    @property
    def head(self) -> nn.Linear:
        """The last linear layer."""
        layer = self.model.get_submodule(self.model.head_name())
        assert isinstance(layer, nn.Linear)
        return layer

    @head.setter
    def head(self, layer: nn.Linear) -> None:
        parent, _, name = self.model.head_name().rpartition(".")
        setattr(self.model.get_submodule(parent), name, layer)
        self._parameters = select_parameters(self.model, "full")

    def freeze_features(self) -> None:
        """Train the head alone from now on."""
        self._parameters = select_parameters(self.model, f"^{re.escape(self.model.head_name())}[.]")

    def size(self, subset: Subset) -> int:
        """Number of samples of a set."""
        return len(self._set(subset))

    def losses(self, step: int) -> StepLosses:
        """Equations 9 and 10 on the batches of a step."""
        retain, forget = self.batch("retain", step), self.batch("forget", step)
        return StepLosses(
            retain=[
                self.fixed(
                    lambda: cross_entropy(self.logits(retain.images), retain.labels).mean(),
                    "retain",
                    step,
                )
            ],
            forget=[
                self.fixed(
                    lambda: negative_cross_entropy(
                        self.logits(forget.images), forget.labels
                    ).mean(),
                    "forget",
                    step,
                    moves_buffers=False,
                )
            ],
        )

    def batch(self, subset: Subset, step: int, size: int | None = None) -> Batch:
        """The augmented batch of a step.

        Raises:
            InputError: the set is empty.
        """
        source = self._set(subset)
        if not len(source):
            raise InputError(f"The {subset} set is empty.", "Name something to forget.")
        index = batch_indices(len(source), size or self.batch_size, step, self.seed, subset)
        samples = source.subset(index)
        random = generator(self.seed, step, subset, "augment")
        images = augment(_pixels(samples.images), self.augmentation, random)
        return Batch(self._format(images), samples.labels)

    def ordered(self, *subsets: Subset, size: int | None = None) -> Iterator[Batch]:
        """Every sample once, in order, not augmented."""
        for subset in subsets:
            source = self._set(subset)
            for start in range(0, len(source), size or ORDERED_BATCH):
                stop = min(start + (size or ORDERED_BATCH), len(source))
                yield self._plain(source, torch.arange(start, stop))

    def draw(self, subset: Subset, count: int, name: str) -> Batch:
        """At most `count` distinct samples chosen by (seed, name), not augmented."""
        source = self._set(subset)
        order = torch.randperm(len(source), generator=generator(self.seed, "draw", subset, name))
        return self._plain(source, order[:count])

    def logits(self, images: Tensor, model: Module | None = None) -> Tensor:
        """Logits in float32 (or wider) of the model, or of another one such as a frozen copy."""
        with self.autocast():
            result: Tensor = (model or self.model)(images)
        return result.float() if result.dtype in (torch.bfloat16, torch.float16) else result

    def fixed(self, loss: Loss, name: str, step: int, *, moves_buffers: bool = True) -> Loss:
        """The loss with its random state fixed by (seed, step, name)."""
        seed = derive_seed(self.seed, step, name, "dropout")
        return FixedLoss(self.model, loss, seed, moves_buffers=moves_buffers)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the model is in evaluation mode."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    def reset(self, seed: int) -> None:
        """Fresh initial weights and statistics, in place."""
        if self.fresh is None:
            raise InputError("This model cannot be trained from scratch.", "Give its architecture.")
        self.model.load_state_dict(self.fresh(seed).state_dict())

    def _set(self, subset: Subset) -> LabelledSet:
        return self.forget if subset == "forget" else self.retain

    def _plain(self, source: LabelledSet, index: Tensor) -> Batch:
        samples = source.subset(index)
        images = center(_pixels(samples.images), self.augmentation)
        return Batch(self._format(images), samples.labels)

    def _format(self, images: Tensor) -> Tensor:
        if self.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images


def _pixels(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images
