"""LUR's inner step size set by itself, from the curvature product that a step makes anyway.

(I - alpha H_r) is one smoothing step on the forget gradient v: it damps what of v lies along
directions in which the retain loss curves upwards, and it turns and grows what has an eigenvalue
above 2 / alpha. The alpha that leaves the least of v,

    d/d alpha |v - alpha H_r v|^2 = 0    at    alpha* = <v, H_r v> / |H_r v|^2,

is the Cauchy step of minimal residuals on H_r x = v. It lies between the reciprocals of the
largest and the smallest eigenvalue that v sees, and it has the unit of a step: a retain loss that
is scaled by s gives alpha* / s, so that the look-ahead does not depend on units.

A step needs alpha before its product is known, so it uses the steps before: a geometric average,
0.8 of the old and 0.2 of the new alpha*. Where alpha* is not positive, the retain loss curves
downwards along v; the next step then looks ahead by 0, and the average stays.

Limits. v itself is taken at theta - alpha grad L_r, so alpha* is that of another alpha's v. On
networks with kinks (ReLU) finite differences (`hvp`) see curvature that autograd does not, and
alpha comes out smaller; `exact`, the classifiers' default, does not. Under bfloat16 the product
carries errors of some percent, which grow in |H_r v|^2: alpha comes out too small, never too large.
"""

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from erase.core.phases import Stats

AUTO = "auto"
"""The value of a setting `alpha` that asks for this."""
NEW = 0.2
"""Weight of the newest alpha* in the geometric average."""


class LookAhead:
    """The average, and the alpha of the next step; 0 until a product was seen."""

    def __init__(self, average: float | None = None, *, curves_up: bool = True) -> None:
        self._average = average
        self._curves_up = curves_up

    @property
    def alpha(self) -> float:
        """The inner step size of the next step, at least 0."""
        return self._average if self._average is not None and self._curves_up else 0.0

    def see(self, stats: Stats) -> None:
        """Take in the curvature of a step; the same on every process, as it was averaged."""
        newest = stats.damping_alpha
        if newest is None:
            return
        self._curves_up = newest > 0
        if self._curves_up:
            old = newest if self._average is None else self._average
            self._average = math.exp((1 - NEW) * math.log(old) + NEW * math.log(newest))

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint: the average (0: none yet) and whether the loss curved upwards."""
        values = [self._average or 0.0, float(self._curves_up)]
        return {"lookahead": torch.tensor(values, dtype=torch.float64)}

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Self:
        """From what `state` returned."""
        average, curves_up = state["lookahead"].tolist()
        return cls(average or None, curves_up=bool(curves_up))
