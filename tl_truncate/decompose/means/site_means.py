"""What sites write on average at each token, read from sums."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_truncate.decompose.fits.origin import require_origin
from tl_truncate.decompose.fits.stored import hash_of
from tl_truncate.decompose.means.file import FIT, HELD_OUT, tensors_of
from tl_truncate.decompose.means.lookup import Table, mean_of, token_table
from tl_truncate.decompose.means.sums import SiteSums, current_tokens, pair_keys, shrunk_means
from tl_truncate.weights.site import Site

#: Tokens seen less often than this are flagged.
FEW = 5


@dataclass(frozen=True, eq=False, repr=False)
class SiteMeans:
    """Means of sites' outputs by token; `TokenMeans` says what they are, and what the fields are."""

    kappa: float
    sums: Mapping[str, Mapping[Site, SiteSums]]
    record: Mapping[str, Any]

    @property
    def sites(self) -> tuple[Site, ...]:
        """Whose outputs have been averaged."""
        return tuple(self.sums[FIT])

    @property
    def layers(self) -> list[int]:
        """Whose MLP outputs have been averaged."""
        return [site.layer for site in self.sites if site.matrix == "W_out"]

    @cached_property
    def whole(self) -> Mapping[Site, SiteSums]:
        """The sums over both folds."""
        return {site: own.plus(self.sums[HELD_OUT][site]) for site, own in self.sums[FIT].items()}

    def has(self, site: Site) -> bool:
        """Whether a site has been averaged."""
        return site in self.sums[FIT]

    def has_pairs(self, site: Site) -> bool:
        """Whether a site has been averaged by the previous token too."""
        return self.sums[FIT][site].pairs is not None

    def require(self, site: Site | str) -> Site:
        """The site, if it has been averaged.

        Raises:
            ValueError: if it has not.
        """
        found = Site.parse(site)
        if not self.has(found):
            shown = ", ".join(map(str, self.sites[:6])) + (" ..." if len(self.sites) > 6 else "")
            raise ValueError(
                f"The means must be of {found}, got means of {shown}. Fit them with "
                f"TokenMeans.fit(model, corpus, sites=['{found}'])."
            )
        return found

    def require_of(self, model: Any, site: Site | str) -> Site:
        """The site, if the means of it can be of the model.

        Raises:
            ValueError: if they cannot: the width is another, or the weights have been processed
                otherwise.
        """
        found = self.require(site)
        require_origin(model, found, self.sums[FIT][found].tokens.width, self.record)
        return found

    def corpus_mean(self, site: Site | str) -> Float[Tensor, " width"]:
        """mu, in float64."""
        return mean_of(self.whole[self.require(site)].tokens)

    def counts(self, site: Site | str, tokens: Int64[Tensor, "*batch"]) -> Int64[Tensor, "*batch"]:
        """How often each token has been seen, n_v."""
        table = self._table(self.require(site))
        return table.counts[table.rows(tokens)].to(torch.int64)

    def flagged(self, site: Site | str, tokens: Int64[Tensor, "*batch"]) -> Tensor:
        """Which tokens have been seen so seldom that their means say little."""
        return self.counts(site, tokens) < FEW

    def of_tokens(
        self, site: Site | str, tokens: Int64[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch width"]:
        """G(v) of each token, without bigrams, in float64; mu for a token that was never seen."""
        table = self._table(self.require(site))
        return table.values[table.rows(tokens)]

    def global_part(
        self, site: Site | str, tokens: Int64[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        """The global part of the site's output on rows of tokens, in float64."""
        total: Tensor = sum(self.terms(site, tokens).values(), start=torch.zeros(()))
        return total

    def terms(self, site: Site | str, tokens: Int64[Tensor, "batch pos"]) -> dict[str, Tensor]:
        """The global part by level: corpus_mean, token and, if it was fitted, bigram."""
        place = self.require(site)
        token, mean = self.of_tokens(place, tokens), self.corpus_mean(place)
        found = {"corpus_mean": mean.expand_as(token), "token": token - mean}
        pairs = self._pairs(place)
        if pairs is not None:
            rows = pairs.rows(pair_keys(tokens))
            known = (rows < len(pairs.keys))[..., None]
            found["bigram"] = torch.where(known, pairs.values[rows] - token, 0.0)
        return found

    def exchanged(
        self, site: Site | str, tokens: Int64[Tensor, "*batch"], *, seed: int
    ) -> Int64[Tensor, "*batch"]:
        """Each token exchanged for another one that was seen, always for the same; unseen ones stay."""
        keys = self._table(self.require(site)).keys
        order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(seed))
        rows = self._table(self.require(site)).rows(tokens)
        following = torch.empty_like(order)
        following[order] = order.roll(-1)  # a cycle, so that no token is exchanged for itself
        own = following[rows.clamp_max(len(keys) - 1)]
        return torch.where(rows < len(keys), keys[own], tokens.cpu())

    @cached_property
    def _tables(self) -> dict[Any, "Table"]:
        return {}

    def _table(self, site: Site) -> "Table":
        if site not in self._tables:
            self._tables[site] = token_table(self.whole[site], self.kappa)
        return self._tables[site]

    def _pairs(self, site: Site) -> "Table | None":
        groups = self.whole[site].pairs
        if groups is None:
            return None
        if (site, "pairs") not in self._tables:
            prior = self.of_tokens(site, current_tokens(groups.keys))
            values = shrunk_means(groups, prior, self.kappa)
            self._tables[site, "pairs"] = Table.of(groups, values, self.corpus_mean(site))
        return self._tables[site, "pairs"]

    def r2(self, site: Site | str) -> float:
        """Share of the held-out variance that the token explains, `1 - |o - G(x)|^2 / |o - mu|^2`.

        G and mu are of the rows that were not held out; nan if none were.
        """
        place = self.require(site)
        own, held = self.sums[FIT][place], self.sums[HELD_OUT][place]
        if not len(held.tokens) or not len(own.tokens):
            return float("nan")
        mean, table = mean_of(own.tokens), token_table(own, self.kappa)
        of_token = table.values[table.rows(held.tokens.keys)]
        residual = _distance(held, of_token)
        return float(1 - residual / _distance(held, mean.expand_as(of_token)))

    def summary(self) -> pd.DataFrame:
        """One row per site: positions, tokens seen, tokens seen less than five times, held-out R^2."""
        rows = [
            dict(
                site=str(site),
                positions=int(sums.tokens.counts.sum()),
                tokens=len(sums.tokens),
                few=int((sums.tokens.counts < FEW).sum()),
                r2=self.r2(site),
            )
            for site, sums in self.whole.items()
        ]
        return pd.DataFrame(rows).set_index("site")

    @property
    def nbytes(self) -> int:
        """Bytes of the sums: 8 x seen tokens x sites x width, and as much again for the squares."""
        groups = [each for fold in self.sums.values() for own in fold.values() for each in own.parts()]
        return sum(each.sums.nbytes + each.counts.nbytes for _, each in groups)

    @cached_property
    def hash(self) -> str:
        """A short hash of all sums."""
        return hash_of(str(self.kappa), tensors_of(self.sums))

    def __str__(self) -> str:
        table = self.summary()
        return (
            f"Token means of {self.record['model']} ({self.record['weights']} weights), "
            f"kappa {self.kappa:g}, {self.nbytes / 1e6:.0f} MB\n{table.to_string(float_format='%.3f')}"
        )

    def __repr__(self) -> str:
        return str(self)


def _distance(held: SiteSums, predicted: Float[Tensor, "groups width"]) -> Tensor:
    """`sum |o - predicted|^2` from sums alone."""
    groups = held.tokens
    crossed = (groups.sums * predicted).sum()
    return held.energy[0] - 2 * crossed + (groups.counts * predicted.square().sum(1)).sum()
