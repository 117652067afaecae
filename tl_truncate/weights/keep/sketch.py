"""The published LASER code's random sketch, for comparison with its results."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.checks import natural
from tl_truncate.weights.keep.rule import Keep, unit


@dataclass(frozen=True)
class LaserCompat(Keep):
    """The published LASER code's approximation: `torch.svd_lowrank` with `niter=2`, seeded.

    It is not the truncation of the spectrum: its output differs from the exact one by tens of per
    cent on real weights. Use it only to compare with results of that code, whose seed is unknown.

    Args:
        rho: fraction of the maximum rank, floored as in `Fraction`.
        seed: of the random sketch; the global random state is left as it was.
    """

    rho: float
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rho", unit("The kept fraction", self.rho))
        object.__setattr__(self, "seed", natural("LaserCompat's seed", self.seed))

    def count(self, max_rank: int) -> int:
        """floor(rho * max_rank)."""
        return math.floor(self.rho * max_rank)

    def indices(self, singular_values: Tensor, shape: tuple[int, int]) -> Tensor:
        """Always raises: a sketch chooses no components of the spectrum."""
        raise ValueError(
            "LaserCompat has no set of kept components: it replaces the weight by a random sketch. "
            "Use Fraction(rho) for the exact truncation."
        )

    def factors(self, weight: Float[Tensor, "n_in n_out"]) -> tuple[Tensor, Tensor]:
        """The sketch `weight ~ left @ right.T`.

        The matrix is handed over as a linear layer stores it, `[n_out, n_in]`, because the side on
        which the sketch is taken depends on it.

        Returns:
            left `[n_in, rank]` and right `[n_out, rank]`, of the weight's dtype or float32.
        """
        rank = self.count(min(weight.shape))
        working = weight if weight.dtype == torch.float64 else weight.float()
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed the generators of all other devices too.
            torch.default_generator.manual_seed(self.seed)
            u, s, v = torch.svd_lowrank(working.T.cpu(), q=rank, niter=2)
        return v * s, u
