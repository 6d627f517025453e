"""The losses: values by hand, one per sample, signs, gradients, refusals."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from erase.core.objectives import cross_entropy, mismatch_mse, negative_cross_entropy, noise_mse
from erase.errors import InputError

Loss = Callable[[Tensor, Tensor], Tensor]


def test_noise_mse_is_the_mean_over_all_but_the_batch() -> None:
    pred = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]])
    assert noise_mse(pred, torch.zeros_like(pred)).tolist() == [7.5, 1.0]
    assert noise_mse(torch.tensor([3.0]), torch.tensor([1.0])).tolist() == [4.0]


@pytest.mark.parametrize("loss", [noise_mse, mismatch_mse])
def test_samples_do_not_mix(loss: Loss) -> None:
    pred, target = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    whole = loss(pred, target)
    assert whole.shape == (4,)
    for i in range(4):
        assert torch.equal(loss(pred[i : i + 1], target[i : i + 1])[0], whole[i])


def test_mismatch_detaches_the_anchor_unless_told() -> None:
    pred, anchor = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    mismatch_mse(pred, anchor).mean().backward()
    assert anchor.grad is None
    assert pred.grad is not None
    first = pred.grad.clone()
    pred.grad = None
    mismatch_mse(pred, anchor, detach=False).mean().backward()
    assert anchor.grad is not None
    assert torch.equal(pred.grad, first)
    assert torch.equal(anchor.grad, -first)


def test_cross_entropy_by_hand_and_its_negative() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)]])
    expected = torch.tensor([math.log(2.0), math.log(4.0)])
    labels = torch.tensor([1, 0])
    assert torch.allclose(cross_entropy(logits, labels), expected)
    assert torch.equal(negative_cross_entropy(logits, labels), -cross_entropy(logits, labels))


def test_cross_entropy_averages_positions_of_a_map() -> None:
    logits, labels = torch.randn(2, 4, 3, 3), torch.randint(0, 4, (2, 3, 3))
    by_hand = -logits.log_softmax(1).gather(1, labels[:, None]).mean((1, 2, 3))
    assert torch.allclose(cross_entropy(logits, labels), by_hand)


def test_half_precision_is_compared_in_float32() -> None:
    pred, target = torch.randn(2, 4096).bfloat16(), torch.randn(2, 4096).bfloat16()
    assert torch.equal(noise_mse(pred, target), noise_mse(pred.float(), target.float()))
    assert noise_mse(pred.double(), target.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("loss", "left", "right"),
    [
        (noise_mse, torch.zeros(4), torch.zeros(4, 1)),
        (noise_mse, torch.zeros(()), torch.zeros(())),
        (mismatch_mse, torch.zeros(2, 3), torch.zeros(1, 3)),
        (cross_entropy, torch.zeros(4, 2), torch.zeros(3, dtype=torch.long)),
        (cross_entropy, torch.zeros(4), torch.zeros(4, dtype=torch.long)),
        (negative_cross_entropy, torch.zeros(4, 2, 3), torch.zeros(4, dtype=torch.long)),
    ],
)
def test_shapes_that_would_broadcast_are_refused(loss: Loss, left: Tensor, right: Tensor) -> None:
    with pytest.raises(InputError, match="do not belong together") as caught:
        loss(left, right)
    assert caught.value.remedy
