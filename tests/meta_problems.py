"""Small models with a retain and a forget batch, and the true meta gradient of each."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from erase.core.meta import meta_gradient
from erase.core.params import FixedLoss


@dataclass
class Problem:
    """A model with a retain and a forget batch; batches can be cut into shards."""

    net: nn.Module
    loss: Callable[..., Tensor]
    batches: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]

    @property
    def params(self) -> list[nn.Parameter]:
        return list(self.net.parameters())

    def to(self, dtype: torch.dtype) -> "Problem":
        for tensor in (*self.net.parameters(), *self.net.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
                tensor.grad = None
        return self

    def without_dropout(self) -> "Problem":
        for module in self.net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return self

    def losses(self, shard: slice = slice(None)) -> tuple[FixedLoss, FixedLoss]:
        return self.closure(0, 0, shard), self.closure(1, 1, shard)

    def closure(self, batch: int, seed: int, shard: slice = slice(None)) -> FixedLoss:
        dtype = self.params[0].dtype
        tensors = self.batches[batch]
        cut = [t[shard].to(dtype) if t.is_floating_point() else t[shard] for t in tensors]
        return FixedLoss(self.net, lambda: self.loss(*cut), seed)

    def gradient(self, **options: object) -> Tensor:
        meta_gradient(self.params, *self.losses(), **options)  # type: ignore[arg-type]
        return flat(self.params)


def problem(kind: str, seed: int, activation: type[nn.Module] = nn.SiLU, n: int = 16) -> Problem:
    torch.manual_seed(seed)
    if kind == "unet":
        return _denoiser()
    layers: list[nn.Module]
    if kind == "mlp":
        shape: tuple[int, ...] = (12,)
        layers = [nn.Linear(12, 32), activation(), nn.Linear(32, 32), activation()]
        layers.append(nn.Linear(32, 5))
    else:
        shape = (3, 8, 8)
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), activation(), nn.Dropout(0.2)]
        layers += [nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), activation()]
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 5)]
    net = nn.Sequential(*layers)

    def batch() -> tuple[Tensor, ...]:
        return torch.randn(n, *shape), torch.randint(0, 5, (n,))

    return Problem(net, lambda x, y: functional.cross_entropy(net(x), y), (batch(), batch()))


def _denoiser() -> Problem:
    net = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
        dropout=0.1,
    )

    def batch() -> tuple[Tensor, ...]:
        steps = torch.randint(0, 1000, (4,))
        return torch.randn(4, 4, 4, 4), steps, torch.randn(4, 3, 8), torch.randn(4, 4, 4, 4)

    def loss(x: Tensor, steps: Tensor, text: Tensor, noise: Tensor) -> Tensor:
        return functional.mse_loss(net(x, steps, text).sample, noise)

    return Problem(net, loss, (batch(), batch()))


def flat(params: list[nn.Parameter]) -> Tensor:
    assert all(p.grad is not None for p in params)
    return torch.cat([p.grad.double().flatten() for p in params if p.grad is not None])


def error(value: Tensor, truth: Tensor) -> float:
    return float((value - truth).norm() / truth.norm())


def truth(case: Problem, alpha: float, weight: float = 1.0) -> tuple[Tensor, Tensor]:
    """The meta gradient, and its Hessian correction, in float64 by double backward.

    Written as equation (2) itself: L_r(theta) + lambda L_f(theta - alpha grad L_r(theta)) is built
    as ONE graph over functional parameters and differentiated; no formula for g is used.
    """
    return truth_of(case, [(0, 0, alpha)], weight)


def truth_of(
    case: Problem, moves: list[tuple[int, int, float]], weight: float
) -> tuple[Tensor, Tensor]:
    """The same after any inner steps, each (batch, seed of the dropout, step size)."""
    case.to(torch.float64)
    names = [n for n, _ in case.net.named_parameters()]
    theta = [p.detach().clone().requires_grad_() for p in case.params]
    tensors = dict(case.net.named_buffers())

    def value(batch: int, weights: list[Tensor], seed: int) -> Tensor:
        cast = [t.double() if t.is_floating_point() else t for t in case.batches[batch]]
        state = dict(zip(names, weights, strict=True)) | {k: b.clone() for k, b in tensors.items()}
        with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH):
            torch.manual_seed(seed)
            if len(cast) == 2:
                out = torch.func.functional_call(case.net, state, (cast[0],))
                return functional.cross_entropy(out, cast[1])
            out = torch.func.functional_call(case.net, state, tuple(cast[:3])).sample
            return functional.mse_loss(out, cast[3])

    retain = value(0, theta, 0)
    moved = theta
    for batch, seed, length in moves:
        inner = torch.autograd.grad(value(batch, moved, seed), moved, create_graph=True)
        moved = [p - length * g for p, g in zip(moved, inner, strict=True)]
    forget = value(1, moved, 1)
    whole = torch.autograd.grad(retain + weight * forget, theta, retain_graph=True)
    first = torch.autograd.grad(retain, theta, retain_graph=True)
    v = torch.autograd.grad(weight * forget, moved, retain_graph=True)
    total = torch.cat([g.flatten() for g in whole])
    return total, total - torch.cat([(g + d).flatten() for g, d in zip(first, v, strict=True)])
