"""Fréchet distance between the Gaussians through two sets of features.

Heusel et al. 2017, equation 6: d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½), in float64. Values on
different features never compare.
"""

import numpy as np

from erase.core.scoring import Floats
from erase.errors import RunError


def scaled_factor(features: Floats) -> Floats:
    """A matrix R with RᵀR = the sample covariance of features `[N, F]`; RunError for N < 2."""
    if len(features) < 2:
        raise RunError("FID needs two images on each side.", "Evaluate more images.")
    centred = features - features.mean(axis=0)
    return np.asarray(np.linalg.qr(centred, mode="r") / np.sqrt(len(features) - 1))


def frechet_distance(first: Floats, second: Floats, second_factor: Floats | None = None) -> float:
    """Squared Fréchet distance of the Gaussians through features `[N, F]` and `[M, F]`, float64.

    With Σ = RᵀR, tr (Σ₁ Σ₂)^½ is the sum of the singular values of R₁R₂ᵀ: no square root is taken
    of eigenvalues that rounding has made negative, and no covariance needs full rank.
    `second_factor` is `scaled_factor(second)`, if known. RunError for fewer than two rows.
    """
    one = scaled_factor(first)
    two = scaled_factor(second) if second_factor is None else second_factor
    shift = first.mean(axis=0) - second.mean(axis=0)
    cross = np.linalg.svd(one @ two.T, compute_uv=False).sum()
    return float(shift @ shift + (one**2).sum() + (two**2).sum() - 2 * cross)
