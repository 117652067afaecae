"""Components of several sites as one vector, and the hard mask that scores of them stand for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.weights.keep import Without
from tl_truncate.weights.site import Site


def harden(scores: Float[Tensor, " components"], budget: int) -> Bool[Tensor, " components"]:
    """The components with the largest scores, at most so many, and none whose score is not positive.

    Of equal scores the first come first.

    Examples:
        >>> harden(torch.tensor([0.1, -1.0, 0.3, 0.2]), 2).tolist()
        [False, False, True, True]
        >>> harden(torch.tensor([0.0, -1.0]), 2).tolist()
        [False, False]
    """
    first = torch.sort(scores, descending=True, stable=True).indices[:budget]
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    chosen[first] = True
    return chosen & (scores > 0)


@dataclass(frozen=True)
class Layout:
    """Where each site's components are in a vector of all of them.

    Attributes:
        ranks: how many components each site has.

    Examples:
        >>> Layout({Site(0, "W_in"): 3, Site(1, "W_in"): 2}).parts[Site(1, "W_in")]
        slice(3, 5, None)
    """

    ranks: Mapping[Site, int]

    @property
    def size(self) -> int:
        """How many components there are."""
        return sum(self.ranks.values())

    @property
    def parts(self) -> dict[Site, slice]:
        """By site."""
        found, start = {}, 0
        for site, rank in self.ranks.items():
            found[site] = slice(start, start + rank)
            start += rank
        return found

    def cuts(
        self, chosen: Bool[Tensor, " components"], make: Callable[[Site, Without], SiteCut]
    ) -> Cuts:
        """A cut for each site that has a chosen component, which removes those."""
        removed = {site: chosen[part].nonzero()[:, 0].tolist() for site, part in self.parts.items()}
        return Cuts([make(site, Without(own)) for site, own in removed.items() if own])
