"""Values of groups, looked up by key."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_truncate.decompose.means.groups import Groups
from tl_truncate.decompose.means.sums import SiteSums, shrunk_means


@dataclass(frozen=True, eq=False)
class Table:
    """Values of groups, looked up by key; the last row is for keys that were never seen."""

    keys: Int64[Tensor, " groups"]
    counts: Float[Tensor, " rows"]
    values: Float[Tensor, "rows width"]

    @classmethod
    def of(cls, groups: Groups, values: Tensor, unseen: Tensor) -> "Table":
        """The values of groups, and what stands for all others."""
        order = groups.keys.argsort()
        counts = torch.cat([groups.counts[order], groups.counts.new_zeros(1)])
        return cls(groups.keys[order], counts, torch.cat([values[order], unseen[None]]))

    def rows(self, keys: Int64[Tensor, "*batch"]) -> Int64[Tensor, "*batch"]:
        """The row of each key; the last one if it was never seen."""
        if not len(self.keys):
            return torch.zeros_like(keys)
        wanted = keys.cpu().contiguous()
        places = torch.searchsorted(self.keys, wanted).clamp_max(len(self.keys) - 1)
        return torch.where(self.keys[places] == wanted, places, len(self.keys))


def token_table(sums: SiteSums, kappa: float) -> Table:
    """The shrunk mean of each token."""
    mean = mean_of(sums.tokens)
    return Table.of(sums.tokens, shrunk_means(sums.tokens, mean, kappa), mean)


def mean_of(groups: Groups) -> Float[Tensor, " width"]:
    """The mean over all positions."""
    return groups.sums.sum(0) / groups.counts.sum().clamp_min(1)
