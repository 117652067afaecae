"""Keep rules that tell signal from noise by random matrix theory."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
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
        _require_a_whole_matrix(self, singular_values, shape)
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
        _require_a_whole_matrix(self, singular_values, shape)
        beta = min(shape) / max(shape)
        root = math.sqrt(beta**2 + 14 * beta + 1)
        edge = math.sqrt(2 * (beta + 1) + 8 * beta / ((beta + 1) + root))
        values = singular_values.double()
        tau = edge / math.sqrt(marchenko_pastur_median(beta)) * _median(values)
        return torch.arange(int((values > tau).sum()))


@dataclass(frozen=True)
class Bulk:
    """The singular values that noise of one standard deviation would have, in a matrix of one shape.

    They fill the range from `lower` to `upper`, `sigma sqrt(n) (1 -+ sqrt(beta))` with
    `n = max(shape)` and `beta = min(shape) / n`, as the Marchenko-Pastur law says.

    Attributes:
        sigma: standard deviation of an entry, in the units of the weight.
        shape: of the matrix.
    """

    sigma: float
    shape: tuple[int, int]

    @property
    def beta(self) -> float:
        """The aspect ratio, in (0, 1]."""
        return min(self.shape) / max(self.shape)

    @property
    def lower(self) -> float:
        """The lower edge; 0 for a square matrix."""
        return self.sigma * math.sqrt(max(self.shape)) * (1 - math.sqrt(self.beta))

    @property
    def upper(self) -> float:
        """The upper edge."""
        return self.sigma * math.sqrt(max(self.shape)) * (1 + math.sqrt(self.beta))

    def density(self, values: Float[Tensor, " points"]) -> Float[Tensor, " points"]:
        """Probability density of a singular value, which integrates to 1 between the edges.

        `f(s) = sqrt((upper^2 - s^2) (s^2 - lower^2)) / (pi beta n sigma^2 s)`
        """
        squares = values.double().square()
        inside = ((self.upper**2 - squares) * (squares - self.lower**2)).clamp_min(0).sqrt()
        size = math.pi * min(self.shape) * self.sigma**2
        return torch.where(inside > 0, inside / (size * values.double()), 0.0)


@dataclass(frozen=True)
class OutsideBulk(Keep):
    """Keeps the components outside of the bulk of a random matrix, at *either* end of the spectrum.

    Kept is what lies above the upper edge or below the lower edge of the noise,
    `sigma (1 +- sqrt(beta))` in units of the root of the larger side. The noise level is the one at
    which the median of the singular values between the edges is that of the Marchenko-Pastur law, so
    that values far outside, on one side or on both, do not move it.

    In a square matrix the lower edge is 0, nothing lies below it, and only large values are kept; in one
    that is nearly square only a direction that is nearly absent is found as small. Of a value that is
    zero to rounding there is nothing to keep. Of pure noise fewer than one value is outside by chance,
    on average.

    Raises:
        ValueError: where it is used, if the matrix is a product of smaller ones.

    Source: Staats, Thamm and Rosenow (arXiv 2410.17770), for small singular values of transformers;
    Marchenko and Pastur 1967. The way of fitting is our own.

    Examples:
        >>> import numpy as np
        >>> noise = np.random.default_rng(0).normal(size=(100, 400))
        >>> values = torch.tensor(np.linalg.svd(noise, compute_uv=False))
        >>> values[0], values[-1] = 60.0, 1.0
        >>> OutsideBulk().indices(values, (100, 400)).tolist()
        [0, 99]
    """

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """Those above the upper edge and those below the lower one."""
        _require_a_whole_matrix(self, singular_values, shape)
        # In units of the largest, so that the units of the weight mean nothing, however small it is.
        units = singular_values / singular_values[:1].clamp_min(torch.finfo(singular_values.dtype).tiny)
        bulk, values = fit_bulk(units, shape), units.double()
        small = (values < bulk.lower) & (values > _rounding(units, shape))
        return ((values > bulk.upper) | small).nonzero()[:, 0]


def fit_bulk(singular_values: Float[Tensor, " rank"], shape: tuple[int, int]) -> Bulk:
    """The noise level of a matrix, from those of its singular values that noise would have.

    From the median of all on, the values outside of the edges are set aside and the median of the rest
    is taken, until it is the same values that are set aside. It is compared with the median of the law
    between the edges.

    Args:
        singular_values: of the matrix, largest first.
        shape: `(n_in, n_out)` of the matrix.

    Examples:
        >>> bulk = fit_bulk(torch.tensor([9.0, 1.0, 1.0, 1.0]), (4, 4))
        >>> round(bulk.upper, 2), bulk.lower
        (2.48, 0.0)
    """
    values = singular_values.double()
    values = values[values > _rounding(singular_values, shape)]
    typical = math.sqrt(marchenko_pastur_median(min(shape) / max(shape)) * max(shape))
    bulk = Bulk(_median(values) / typical, shape)
    seen: list[int] = []
    while len(values):
        inside = values[(values >= bulk.lower) & (values <= bulk.upper)]
        first = int((values > bulk.upper).sum())
        # A pair of borders that comes again would come for ever.
        if not len(inside) or (key := first * (len(values) + 1) + len(inside)) in seen:
            break
        seen.append(key)
        bulk = Bulk(_median(inside) / typical, shape)
    return bulk


def _rounding(singular_values: Tensor, shape: tuple[int, int]) -> float:
    """What a singular value of zero may be computed as."""
    if not len(singular_values):
        return 0.0
    return max(shape) * torch.finfo(singular_values.dtype).eps * float(singular_values[0])


def _require_a_whole_matrix(rule: Keep, singular_values: Tensor, shape: tuple[int, int]) -> None:
    if len(singular_values) != min(shape):
        raise ValueError(
            f"{rule!r} compares a matrix with one of independent entries, which a product of smaller "
            f"matrices never is, but this one is {shape[0]} x {shape[1]} with {len(singular_values)} "
            "components. Use a rank, a fraction or Energy."
        )


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
