"""Second derivatives by formulas are those of autograd, in both memory formats."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from erase.core.meta import meta_gradient
from erase.core.params import FixedLoss
from erase.core.second_order import fast_second_order
from erase.models.classifiers import Description, build

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.BatchNorm2d(6),
    "batch norm, no statistics": lambda: nn.BatchNorm2d(6, track_running_stats=False),
    "batch norm, no weights": lambda: nn.BatchNorm2d(6, affine=False),
    "group norm": lambda: nn.GroupNorm(2, 6),
    "GELU": nn.GELU,
    "GELU, tanh": lambda: nn.GELU("tanh"),
    "convolution, groups": lambda: nn.Conv2d(6, 6, 3, 2, 1, groups=2),
    "convolution, dilated": lambda: nn.Conv2d(6, 6, 3, dilation=2, bias=False),
    "convolution, padding by name": lambda: nn.Conv2d(6, 6, 3, padding="same"),
}


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", LAYERS)
def test_the_formulas_are_autograds(name: str, form: torch.memory_format) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), LAYERS[name](), nn.Tanh(), nn.Conv2d(6, 4, 2))
    net = net.double().train().to(memory_format=form)
    images = torch.randn(5, 3, 9, 9).double().contiguous(memory_format=form)
    params = list(net.parameters())
    with torch.no_grad():
        for p in params:
            p.add_(torch.randn_like(p), alpha=0.3)
    directions = [torch.randn_like(p) for p in params]

    def both() -> list[Tensor]:
        grads = torch.autograd.grad(net(images).square().sum(), params, create_graph=True)
        return [*grads, *torch.autograd.grad(grads, params, directions)]

    expected = both()
    with fast_second_order():
        found = both()
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("arch", ["cnn", "cnn-gelu", "resnet20"])
def test_exact_is_double_backward_in_float64(arch: str) -> None:
    def gradient(dtype: torch.dtype) -> Tensor:
        torch.manual_seed(0)
        about = Description(arch, ("a", "b", "c"), 8, (0.5,) * 3, (0.3,) * 3, "none")
        net = build(about).to(dtype).train()
        images = torch.rand(2, 8, 3, 8, 8).to(dtype)
        labels = torch.randint(0, 3, (2, 8))
        params = list(net.parameters())

        def retain() -> Tensor:
            return nn.functional.cross_entropy(net(images[0]), labels[0])

        def forget() -> Tensor:
            return -nn.functional.cross_entropy(net(images[1]), labels[1])

        if dtype == torch.float64:
            inner = torch.autograd.grad(retain(), params, create_graph=True)
            names = [name for name, _ in net.named_parameters()]
            moved = {n: p - 0.1 * g for n, p, g in zip(names, params, inner, strict=True)}
            logits = torch.func.functional_call(net, moved, (images[1],))
            whole = retain() - nn.functional.cross_entropy(logits, labels[1])
            return torch.cat([g.flatten() for g in torch.autograd.grad(whole, params)])
        losses = FixedLoss(net, retain, 0), FixedLoss(net, forget, 1)
        meta_gradient(params, *losses, alpha=0.1, mode="exact")
        return torch.cat([p.grad.double().flatten() for p in params if p.grad is not None])

    truth = gradient(torch.float64)
    # The rounding of float32 in a whole step, and in its gradients alone.
    assert float((gradient(torch.float32) - truth).norm() / truth.norm()) < ROUNDING[arch]


ROUNDING = {"cnn": 2e-6, "cnn-gelu": 2e-6, "resnet20": 2e-5}


def test_statistics_may_move_on_before_the_product() -> None:
    """Under autocast PyTorch's own batch norm is used, whose graph holds the statistics."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))
    images = torch.randn(2, 4, 3, 5, 5)

    def loss(which: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return net(images[which]).float().square().mean()

    losses = [FixedLoss(net, partial(loss, which), which) for which in (0, 1)]
    meta_gradient(net.parameters(), *losses, alpha=0.1, mode="exact")
    assert int(net.get_buffer("1.num_batches_tracked")) == 2
