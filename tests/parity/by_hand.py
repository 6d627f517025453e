"""Gradients that are known, beside those that a task leaves."""

from typing import Any

import torch


def flat(tensors: Any) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors])


def gradient(task: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    parameters = list(task.parameters.values())
    return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))


def left(task: Any) -> torch.Tensor:
    return flat([p.grad for p in task.parameters.values()])


class Line(torch.nn.Module):
    """ε(x) = w x, one number w: every gradient is known."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, noisy: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        return (self.w * noisy,)


def slope(model: Any, batch: Any) -> torch.Tensor:
    """d/dw of MSE(w x_t, ε) over a batch, by hand."""
    return 2 * (batch.noisy * (model.w.detach() * batch.noisy - batch.noise)).mean()
