"""DualOptim (arXiv 2504.15827): AdamW on the forget gradient, SGD on the retain gradient.

In one shared momentum, each gradient disturbs the other's running average; here each has its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class DualOptim(Optimizer):
    """SGD with momentum on `.grad`, AdamW on `forget_gradients`, over the same parameters.

    Both updates of a step start from the same parameters, so that their order does not matter.
    If a gradient is None, the momentum of its part does not change.

    Args:
        params: to train.
        lr: learning rate of SGD, the retain part.
        forget_lr: learning rate of AdamW, the forget part.
        momentum: of SGD.
        weight_decay: of SGD.
        forget_weight_decay: of AdamW (the source: 0.05).
        betas: of AdamW.
        eps: of AdamW.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        forget_lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        forget_weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.forget_gradients: list[Tensor] | None = None
        defaults = {
            "lr": lr,
            "forget_lr_ratio": forget_lr / lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "forget_weight_decay": forget_weight_decay,
            "betas": betas,
            "eps": eps,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters; the learning rates keep their ratio under a schedule."""
        if closure is not None:
            raise ValueError("DualOptim takes no closure")
        parameters = [(p, group) for group in self.param_groups for p in group["params"]]
        forget: Sequence[Tensor | None] = self.forget_gradients or [None] * len(parameters)
        for (p, group), gradient in zip(parameters, forget, strict=True):
            state = self.state[p]
            move = torch.zeros_like(p)
            if p.grad is not None:
                move += group["lr"] * _momentum(state, p, group)
            if gradient is not None:
                step = _adam(state, gradient, group).add(p, alpha=group["forget_weight_decay"])
                move += group["lr"] * group["forget_lr_ratio"] * step
            p.sub_(move)
        self.forget_gradients = None


def _momentum(state: dict[str, Any], p: Tensor, group: dict[str, Any]) -> Tensor:
    assert p.grad is not None
    gradient = p.grad.add(p, alpha=group["weight_decay"])
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(p)
    buffer: Tensor = state["momentum_buffer"]
    return buffer.mul_(group["momentum"]).add_(gradient)


def _adam(state: dict[str, Any], gradient: Tensor, group: dict[str, Any]) -> Tensor:
    if "exp_avg" not in state:
        state["exp_avg"] = torch.zeros_like(gradient)
        state["exp_avg_sq"] = torch.zeros_like(gradient)
        state["forget_steps"] = 0
    beta1, beta2 = group["betas"]
    state["forget_steps"] += 1
    mean: Tensor = state["exp_avg"].lerp_(gradient, 1 - beta1)
    square: Tensor = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    count = state["forget_steps"]
    scale = math.sqrt(1 - beta2**count) / (1 - beta1**count)
    size = square.sqrt().add_(group["eps"] * math.sqrt(1 - beta2**count))
    return mean.mul(scale).div_(size)
