"""Fréchet distance between the Gaussians through two sets of features.

Heusel et al. 2017, equation 6: d² = |μ₁ - μ₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½), in float64. Values on
different features never compare.
"""

import numpy as np

from erase.errors import RunError
from erase.scoring.statistics import Floats


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
    first_factor = scaled_factor(first)
    second_factor = scaled_factor(second) if second_factor is None else second_factor
    shift = first.mean(axis=0) - second.mean(axis=0)
    cross = np.linalg.svd(first_factor @ second_factor.T, compute_uv=False).sum()
    return float(shift @ shift + (first_factor**2).sum() + (second_factor**2).sum() - 2 * cross)


def frechet_influence(first: Floats, second: Floats, second_factor: Floats) -> tuple[float, Floats]:
    """The distance, and how each row of `first` `[N, F]` moves it: `h [N]`, float64.

    Counting row i w_i times changes the distance, to first order, by Σ (w_i - 1) h_i (Hampel's
    influence function; Jaeckel's infinitesimal jackknife). With the centred rows mapped by the
    reference's factor, Y = U S Vᵀ, row i's yᵀA^-½y is √(N-1) Σ_k U_ik² S_k, where A is
    Y's covariance: rows only recombine within A's range, so A needs no full rank. RunError for
    fewer than two rows.
    """
    if len(first) < 2:
        raise RunError("FID needs two images on each side.", "Evaluate more images.")
    n, mean = len(first), first.mean(axis=0)
    centred, shift = first - mean, mean - second.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred @ second_factor.T, full_matrices=False)
    cross = float(singular.sum() / np.sqrt(n - 1))
    squares = (centred**2).sum(axis=1)
    trace = float(squares.sum() / (n - 1))
    value = float(shift @ shift) + trace + float((second_factor**2).sum()) - 2 * cross
    pulls = 2 * centred @ shift + (squares * n / (n - 1) - trace)
    pulls -= n / np.sqrt(n - 1) * (left**2 @ singular) - cross
    return value, np.asarray(pulls / n)
