"""An attacker who fine-tunes beside a training run, and goes on from one of its steps to the next.

One step of fine-tuning is no attack: it hardly moves the model, and a longer one breaks it. An
attacker who takes M steps before he starts anew is one, but following him from the start in each
step of training would cost M gradients. This one keeps his way instead, the displacement
delta = theta_attacker - theta: it stays where it is while theta moves under it, takes one step a
step of training,

    delta <- delta - beta d(grad L_q(theta + delta)),

and is 0 again every M steps. d is Adam's direction (Kingma & Ba, ICLR 2015: beta_1 0.9, beta_2
0.999, eps 1e-8), what attackers use, or the gradient itself. Keeping an inner state over outer
steps is the first-order answer to long inner loops that Reptile and iMAML discuss for meta
learning; the attacker of ResAlign (arXiv 2507.16302) starts anew in each step.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPS = 1e-8


class Attacker:
    """The attacker's displacement, and Adam's moments.

    Attributes:
        displacement: delta, one tensor for each parameter; empty before the first `begin`.
        adaptive: whether d is Adam's direction; otherwise the gradient.
    """

    def __init__(self, *, restart: int, adaptive: bool) -> None:
        """`restart`: M, the steps of training after which he starts anew, at least 1."""
        self.adaptive = adaptive
        self.displacement: list[Tensor] = []
        self._restart = restart
        self._moments: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._taken = 0

    def begin(self, step: int, params: Sequence[Tensor]) -> None:
        """Start anew if it is time; `step` is that of training, from 0."""
        if step % self._restart == 0 or not self.displacement:
            self.displacement = _zeros(params)
            self._moments = _zeros(params), _zeros(params)
            self._taken = 0

    def direction(self, gradient: list[Tensor]) -> list[Tensor]:
        """The direction d of one gradient of L_q; Adam's moments move with it."""
        if not self.adaptive:
            return gradient
        self._taken += 1
        first, second = self._moments
        torch._foreach_lerp_(first, gradient, 1 - BETAS[0])
        torch._foreach_mul_(second, BETAS[1])
        torch._foreach_addcmul_(second, gradient, gradient, 1 - BETAS[1])
        corrected = [1 - beta**self._taken for beta in BETAS]
        size = torch._foreach_sqrt(torch._foreach_div(second, corrected[1]))
        torch._foreach_add_(size, EPS)
        return list(torch._foreach_div(torch._foreach_div(first, corrected[0]), size))

    def move(self, direction: list[Tensor], length: float) -> None:
        """Go `length` along a direction."""
        torch._foreach_add_(self.displacement, direction, alpha=length)

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint: nothing before the first step."""
        if not self.displacement:
            return {}
        first, second = self._moments
        kept = {"displacement": self.displacement, "first": first, "second": second}
        tensors = {f"{name}.{i}": t for name, many in kept.items() for i, t in enumerate(many)}
        return tensors | {"taken": torch.tensor(self._taken)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned."""
        if not state:
            return
        count = (len(state) - 1) // 3

        def kept(name: str) -> list[Tensor]:
            return [state[f"{name}.{i}"] for i in range(count)]

        self.displacement = kept("displacement")
        self._moments = kept("first"), kept("second")
        self._taken = int(state["taken"])


def _zeros(params: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(p) for p in params]
