"""Keep rules that tell signal from noise by random matrix theory."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from tl_truncate.weights.keep.rule import Keep


@dataclass(frozen=True)
class MarchenkoPastur(Keep):
    """Keeps the components above the edge of a random matrix with the noise level of this one.

    For `X = W / sqrt(n)` with `n = max(shape)` and `beta = min(shape) / n`, pure noise of standard
    deviation `sigma` has singular values up to `sigma (1 + sqrt(beta))`. The noise level is read off
    the median: `sigma = median(s(X)) / sqrt(mu_beta)`, where `mu_beta` is the median of the
    Marchenko-Pastur law with unit variance.

    Source: Marchenko and Pastur 1967; the median rule is that of Gavish and Donoho 2014, section
    III-D. Low signal rank is assumed: a matrix with few noise components keeps too little.
    """

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """Those above the edge."""
        beta = min(shape) / max(shape)
        scaled = singular_values.double() / math.sqrt(max(shape))
        sigma = _median(scaled) / math.sqrt(marchenko_pastur_median(beta))
        return torch.arange(int((scaled > sigma * (1 + math.sqrt(beta))).sum()))


@dataclass(frozen=True)
class OptimalThreshold(Keep):
    """Keeps the components above the threshold with the least mean squared error in white noise.

    `tau = lambda(beta) / sqrt(mu_beta) * median(s)`, with
    `lambda(beta)^2 = 2 (beta + 1) + 8 beta / ((beta + 1) + sqrt(beta^2 + 14 beta + 1))`.

    Source: Gavish and Donoho 2014, equations 11 and 30 (unknown noise level; for a square matrix
    `tau = 2.858 median(s)`).
    """

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """Those above the threshold."""
        beta = min(shape) / max(shape)
        root = math.sqrt(beta**2 + 14 * beta + 1)
        edge = math.sqrt(2 * (beta + 1) + 8 * beta / ((beta + 1) + root))
        values = singular_values.double()
        tau = edge / math.sqrt(marchenko_pastur_median(beta)) * _median(values)
        return torch.arange(int((values > tau).sum()))


def _median(values: Tensor) -> float:
    # torch.median takes the lower of the two middle values; the rules are calibrated on the mean.
    return float(values.quantile(0.5)) if len(values) else 0.0


@lru_cache(maxsize=64)
def marchenko_pastur_median(beta: float) -> float:
    """Median of the Marchenko-Pastur law with unit variance and aspect ratio `beta` in (0, 1].

    The density `sqrt((b - x)(x - a)) / (2 pi beta x)` on `a, b = (1 -+ sqrt(beta))^2` is integrated
    over the angle `x = 1 + beta - 2 sqrt(beta) cos(t)`, in which it is smooth.

    Examples:
        >>> round(marchenko_pastur_median(1.0), 4)
        0.6528
    """
    angle = np.linspace(0.0, math.pi, 200_001)
    x = 1 + beta - 2 * math.sqrt(beta) * np.cos(angle)
    with np.errstate(divide="ignore", invalid="ignore"):
        density = 2 * np.sin(angle) ** 2 / (math.pi * x)
    density[0] = 2 / math.pi if beta == 1.0 else 0.0  # the limit where x and sin(t) vanish together
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)]) * angle[1]
    return float(np.interp(0.5, mass / mass[-1], x))
