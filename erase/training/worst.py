"""The training samples that are hardest to forget, for the forget specification `worst:10%`."""

from copy import deepcopy

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from erase.core.rng import batch_indices, generator
from erase.data.classification import LabelledSet, augment
from erase.judges.classifier_scores import predict
from erase.models.classifiers import Classifier
from erase.training.classifier import Original

RATE, EPOCHS, BATCH = 1e-3, 2, 256


def hardest(original: Original, count: int, *, seed: int) -> Tensor:
    """The samples that stay recognised best when they are left out, after Fan et al. (ECCV 2024).

    The source looks for the forget set whose loss is lowest after it was unlearned,
    min over w of Σ w_i ℓ_i(θ_u(w)), with w in [0, 1] and of a given sum. There θ_u is the original
    after two epochs on Σ (1 − w_i) ℓ_i, in steps of 1e-3 along the sign of the gradient, and w and
    θ_u are updated in turn. Here every sample's loss is measured once: the training set is halved
    at random; for each half a copy of the original takes two epochs of the same sign updates on the
    other half (batches of 256, batch statistics as they are); and since the sum is linear in w, the
    answer is the `count` samples with the lowest losses. That costs about as much as two epochs of
    fine-tuning.

    Args:
        original: not changed.
        count: of samples, from 1 to those that the original was trained on.
        seed: of the halves, of the batches and of augmentation.

    Returns:
        Indices into the training set, `[count]`, hardest first.
    """
    trained_on = original.trained_on.cpu()
    order = torch.randperm(len(trained_on), generator=generator(seed, "forget", "worst"))
    losses = torch.zeros(len(trained_on), dtype=torch.float64)
    train, how = original.data.train, original.data.augmentation
    for half in range(2):
        out, rest = order[half::2], order[1 - half :: 2]
        model = _without(original, train.subset(trained_on[rest]), seed, half)
        left_out = train.subset(trained_on[out])
        logits = predict(model, left_out, how).double()
        losses[out] = cross_entropy(logits, left_out.labels.cpu(), reduction="none")
    return trained_on[losses.argsort(stable=True)[:count]]


def _without(original: Original, rest: LabelledSet, seed: int, half: int) -> Classifier:
    """A copy of the original after sign updates on the rest alone."""
    model = deepcopy(original.model).eval().requires_grad_(True)
    size, how = min(BATCH, len(rest)), original.data.augmentation
    for step in range(EPOCHS * -(-len(rest) // size)):
        batch = rest.subset(batch_indices(len(rest), size, step, seed, "worst", half))
        random = generator(seed, step, "worst", half, "augment")
        pixels = augment(batch.images.float() / 255, how, random)
        loss = cross_entropy(model(pixels), batch.labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, gradient in zip(model.parameters(), gradients, strict=True):
                p.sub_(gradient.sign(), alpha=RATE)
    return model
