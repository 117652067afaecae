"""Ways to take the global part away, as named cuts to compare or to choose from."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tl_truncate.checks import positive
from tl_truncate.decompose.covariances.curvature import Curvature
from tl_truncate.decompose.covariances.factors import CurvatureFactors
from tl_truncate.decompose.covariances.moments import OutputMoments
from tl_truncate.decompose.covariances.output_pca import OutputPCA
from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.decompose.parts import Method
from tl_truncate.decompose.shares import ComponentShares, GlobalDirection, component_shares
from tl_truncate.decompose.taken_away.removal import GlobalRemoval
from tl_truncate.surgery.clustered import Clustered
from tl_truncate.surgery.controls import FEW_DRAWS, Ablated, NormMatched, RandomSubspace
from tl_truncate.surgery.cut import Cut, SiteCut
from tl_truncate.tasks.encode import encode
from tl_truncate.tasks.task import Task
from tl_truncate.weights.keep import Fraction, Keep, Rank, as_keep
from tl_truncate.weights.keep.defaults import COMPARED
from tl_truncate.weights.keep.noise import MarchenkoPastur, OptimalThreshold, OutsideBulk
from tl_truncate.weights.locate import find_sites, locate
from tl_truncate.weights.site import Matrix, Site

KS: tuple[int, ...] = (1, 8, 64)
MLP: tuple[Matrix, ...] = ("W_in", "W_out")
#: The order is that of the tables; behind them comes what is learned.
FAMILIES = (
    "LASER",
    "noise",
    "clustered",
    "PCA",
    "PCA complement",
    "curvature",
    "targeted",
    "direction",
    "global removal",
    "dropping",
)
LEARNED = "learned"
#: Cuts by what was fitted, which may be too little to say what they are.
FITTED = (OutputPCA, Curvature)
#: The order is that of the tables.
METHODS: tuple[Method, ...] = ("token_mean", "context_ablation", "own_path", "spectral")


def last_token(model: Any, task: Task, *, prepend_bos: bool | None = None) -> int:
    """The token that most prompts of a task end in: where the answer is said."""
    rows = encode(model, task, prepend_bos=prepend_bos).prompts
    ends = torch.tensor([row.prompt[-1] for row in rows])
    found, counts = torch.unique(ends, return_counts=True)
    return int(found[counts.argmax()])


def seen_token(means: TokenMeans, site: Site, token: int | None) -> int | None:
    """The token, or None where the means have not seen it."""
    seen = token is not None and int(means.counts(site, torch.tensor([token])))
    return token if seen else None


@dataclass(frozen=True)
class Ways:
    """What is tried at each layer.

    Attributes:
        keeps: of LASER, at W_in and W_out.
        ks: components removed by targeted truncation, by their global share over all positions and at
            the token.
        strengths: of the removal of the global part.
        methods: of the removal.
        noise: rules that tell noise from the spectrum alone, at W_in and W_out.
        groups: numbers of groups for `Clustered`, at the keeps of LASER.
        pca: whether to look at `OutputPCA`, at the keeps of LASER, and at its complement, which drops as
            many directions as targeted truncation does components.
        masses: of `Curvature`.
        mask: most components that `learn_mask` removes, of all W_in and W_out together; None for none.
    """

    keeps: Sequence[Keep | int | float] = COMPARED
    ks: Sequence[int] = KS
    strengths: Sequence[float] = (1.0,)
    methods: Sequence[Method] = ("token_mean",)
    noise: Sequence[Keep] = ()
    groups: Sequence[int] = ()
    pca: bool = False
    masses: Sequence[float] = ()
    mask: int | None = None

    @classmethod
    def every(cls) -> "Ways":
        """All families; they need moments and factors."""
        noise = (MarchenkoPastur(), OptimalThreshold(), OutsideBulk())
        return cls(noise=noise, groups=(4, 16), pca=True, masses=(0.5, 0.9, 0.99), mask=64)

    def families(
        self,
        model: Any,
        means: TokenMeans,
        layers: Sequence[int],
        token: int | None,
        *,
        moments: OutputMoments | None = None,
        factors: CurvatureFactors | None = None,
    ) -> dict[str, list[SiteCut]]:
        """The cuts to choose from, by family.

        Args:
            model: that is cut.
            means: of the layers' MLP outputs.
            layers: to choose from.
            token: whose share and direction are looked at beside those of all positions.
            moments: of the layers' W_in and W_out.
            factors: of the same.

        Raises:
            ValueError: if a family is asked for whose moments or factors there are not.
        """
        _require_fitted("moments", moments, "OutputPCA (pca=True)", needed=self.pca)
        _require_fitted("factors", factors, "Curvature (masses)", needed=bool(self.masses))
        sites = [site.layer for site in find_sites(model, "W_out", layers)]
        found: dict[str, list[SiteCut]] = {name: [] for name in FAMILIES}
        for layer in sites:
            site = means.require(Site(layer, "W_out"))
            for matrix in MLP:
                for name, cuts in self._of_matrix(Site(layer, matrix), moments, factors).items():
                    found[name] += cuts
            own = seen_token(means, site, token)
            for shares in _shares(model, site, means, own):
                ks = [k for k in self.ks if k < shares.known]
                found["targeted"] += [Cut(site, shares.without_most_global(k)) for k in ks]
            if own is not None:
                found["direction"].append(GlobalDirection(site, means, own))
            found["global removal"] += self._removals(layer, means)
            found["dropping"].append(Ablated(site))
        return {name: cuts for name, cuts in found.items() if cuts}

    def _of_matrix(
        self, site: Site, moments: OutputMoments | None, factors: CurvatureFactors | None
    ) -> dict[str, list[SiteCut]]:
        """Families that choose from both matrices of an MLP."""
        found: dict[str, list[SiteCut]] = {"LASER": [Cut(site, keep) for keep in self.keeps]}
        found["noise"] = [Cut(site, keep) for keep in self.noise]
        found["clustered"] = [
            Clustered(site, groups, keep) for groups in self.groups for keep in self.keeps
        ]
        if self.pca and moments is not None:
            found["PCA"] = [OutputPCA(site, moments, keep) for keep in self.keeps]
            found["PCA complement"] = [OutputPCA(site, moments, drop=k) for k in self.ks]
        if factors is not None:
            found["curvature"] = [Curvature(site, factors, mass) for mass in self.masses]
        return found

    def side_by_side(
        self, model: Any, means: TokenMeans, layer: int, token: int | None, seed: int, draws: int
    ) -> dict[str, tuple[SiteCut, ...]]:
        """All ways at one layer by name, with their controls; of a control all its draws."""
        seeds = range(seed, seed + draws)
        site = means.require(Site(layer, "W_out"))
        max_rank = min(locate(model, site).shape)
        own = seen_token(means, site, token)
        found: dict[str, SiteCut | tuple[SiteCut, ...]] = {"MLP dropped": Ablated(site)}
        for cut in self._removals(layer, means):
            name = f"minus global, {cut.label}"
            found[name + ("" if cut.strength == 1.0 else f" x {cut.strength:g}")] = cut
        removal = GlobalRemoval(layer, means=means)
        found["minus another token's mean (control)"] = tuple(
            removal.controls(each)["ExchangedTokens"] for each in seeds[:FEW_DRAWS]
        )  # few, since each takes whole passes
        found["minus token part"] = GlobalRemoval(layer, means=means, only=("token",))
        for matrix in ("W_in", "W_out"):
            for keep in self.keeps:
                name = f"LASER {matrix}, {_kept(keep)} kept"
                found[name] = Cut(f"blocks.{layer}.mlp.{matrix}", keep)
        if own is not None:
            direction = GlobalDirection(site, means, own)
            found[f"direction G({own})"] = direction
            found["random direction (control)"] = tuple(
                direction.controls(each)["RandomSubspace"] for each in seeds
            )
        for shares in _shares(model, site, means, own):
            where = "" if shares.token is None else f" at {shares.token}"
            for k in (k for k in self.ks if k < shares.known):
                found[f"{k} most global{where}"] = Cut(site, shares.without_most_global(k))
                found[f"{k} least global{where} (control)"] = Cut(site, shares.without_least_global(k))
        last = _shares(model, site, means, own)[-1]
        for k in (k for k in self.ks if k < last.known):
            rest = Rank(max_rank - k)
            most = last.without_most_global(k)
            found[f"{k} random (control)"] = tuple(RandomSubspace(site, rest, seed) for seed in seeds)
            found[f"{k} norm-matched (control)"] = tuple(NormMatched(site, most, seed) for seed in seeds)
        return {name: cut if isinstance(cut, tuple) else (cut,) for name, cut in found.items()}

    def _removals(self, layer: int, means: TokenMeans) -> list[GlobalRemoval]:
        return [
            GlobalRemoval(
                layer, method, means=means if method == "token_mean" else None, strength=strength
            )
            for method in self.methods
            for strength in self.strengths
        ]


def as_many(
    families: Mapping[str, Sequence[SiteCut]], settings: int | None, seed: int
) -> dict[str, list[SiteCut]]:
    """At most so many cuts of each family, drawn at random and in their order; all if None.

    Examples:
        >>> cuts = [tlt.Cut("blocks.0.mlp.W_in", keep) for keep in range(9)]
        >>> [len(own) for own in as_many({"one": cuts, "other": cuts[:2]}, 4, seed=0).values()]
        [4, 2]
    """
    if settings is None:
        return {name: list(cuts) for name, cuts in families.items()}
    most = positive("settings", settings)
    found = {}
    for name, cuts in families.items():
        chance = random.Random(f"settings {seed} {name}")
        places = chance.sample(range(len(cuts)), min(most, len(cuts)))
        found[name] = [cuts[place] for place in sorted(places)]
    return found


def learnable_sites(model: Any, layers: Sequence[int]) -> list[Site]:
    """Where a mask is learned: W_in and W_out of the layers."""
    return find_sites(model, MLP, layers)


def _require_fitted(name: str, fitted: Any, told: str, *, needed: bool) -> None:
    if needed and fitted is None:
        kind = "OutputMoments" if name == "moments" else "CurvatureFactors"
        raise ValueError(
            f"{told} must have {name}, got none. Write {name}=tlt.{kind}.fit(model, texts), or leave "
            "the family out of the ways."
        )


def _shares(model: Any, site: Site, means: TokenMeans, token: int | None) -> list[ComponentShares]:
    tokens = [None] if token is None else [None, token]
    return [component_shares(model, site, means, each) for each in tokens]


def _kept(keep: Keep | int | float) -> str:
    rule = as_keep(keep)
    if isinstance(rule, Rank):
        return f"rank {rule.k}"
    return f"{rule.rho:.0%}" if isinstance(rule, Fraction) else repr(rule)


#: For choosing: one method, since the others take passes of their own for each setting.
TO_CHOOSE = Ways()
#: For looking: all methods.
TO_COMPARE = Ways(methods=METHODS)
