"""A mask that is learned, and what it is worth on prompts that had no say, beside random ones."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from tl_truncate.experiments.learning.learner import Progress, Rules, learn
from tl_truncate.experiments.learning.mask import Layout
from tl_truncate.experiments.learning.result import LearnedMask
from tl_truncate.experiments.search.asked import Asked
from tl_truncate.experiments.search.judge import Split
from tl_truncate.experiments.search.on_test import controls_on, cost_of, scores_of
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.surgery.controls import RotatedComponents, draws_for
from tl_truncate.surgery.cut import Cut, Cuts
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.spectrum import shared_spectrum


@dataclass(frozen=True)
class Learning:
    """The mask of the spectra, and that of random bases.

    Attributes:
        asked: the model, with what it has been asked.
        layout: of the components.
        split: to learn on, and to report on.
        prompts: of the part to learn on: those with gradients, and those that are watched.
        rules: how to learn.
        place: a folder for what is learned.
        progress: whether to show bars.
    """

    asked: Asked
    layout: Layout
    split: Split
    prompts: Split
    rules: Rules
    place: Path | None
    progress: bool

    def report(
        self,
        settings: Mapping[str, Any],
        *,
        draws: int | None,
        null: bool,
        texts: Sequence[str] | None,
    ) -> LearnedMask:
        """Learns the mask, and says what it is worth on the test prompts."""
        model, asked, rules = self.asked.model, self.asked, self.rules
        vectors = {site: shared_spectrum(model, site).directions for site in self.layout.ranks}
        found = self._learn(vectors, "learned")
        told = {**settings, **_told(self.layout, self.prompts), "best_step": found.best_step}
        cuts = self.layout.cuts(found.best, partial(Cut, strength=rules.strength))
        scores = scores_of(asked, [self.split], cuts)
        several = draws_for(len({cut.site for cut in cuts}), draws)
        masks = random_masks(self.layout, found.best, rules, several)
        options = asked.options
        return LearnedMask(
            cuts,
            rules.objective,
            "mean",
            *scores,
            controls=controls_on(asked, [self.split], cuts, draws, masks),
            cost=cost_of(asked.at, cuts, texts, options.prepend_bos, options.max_memory),
            looks=pd.DataFrame(found.looks),
            settings=told,
            null=self._null(told) if null else None,
            scores=_by_site(self.layout, found),
        )

    def _null(self, told: Mapping[str, Any]) -> SearchResult:
        """Learned of directions of bases that are turned at random, and what that is worth."""
        model, rules = self.asked.model, self.rules
        turned = {site: RotatedComponents(site, 0, rules.seed) for site in self.layout.ranks}
        bases = {site: cut.basis(shared_spectrum(model, site)) for site, cut in turned.items()}
        found = self._learn(bases, "null")
        make = partial(RotatedComponents, seed=rules.seed, strength=rules.strength)
        cuts = self.layout.cuts(found.best, make)
        scores = scores_of(self.asked, [self.split], cuts)
        looks = pd.DataFrame(found.looks)
        settings = {**told, "best_step": found.best_step}
        rest: dict[str, Any] = dict(controls={}, cost=None, looks=looks, settings=settings)
        return SearchResult(cuts, rules.objective, "mean", *scores, **rest)

    def _learn(self, vectors: Mapping[Site, Tensor], name: str) -> Progress:
        if not self.rules.budget:
            nothing = torch.zeros(self.layout.size, dtype=torch.float64)
            row = dict(step=0, components=0, entered=0, left=0, watched=math.nan, change=0.0, worth=0.0)
            looks = [row | dict(fit=math.nan, seconds=0.0)]
            return Progress(nothing, nothing.bool(), nothing.bool(), looks=looks)
        path = None if self.place is None else self.place / f"{name}.safetensors"
        told: dict[str, Any] = dict(progress=self.progress, title=name)
        return learn(self.asked.model, vectors, self.prompts, self.rules, path, **told)


def random_masks(
    layout: Layout, mask: Bool[Tensor, " components"], rules: Rules, draws: int
) -> dict[str, list[Cuts]]:
    """As many components of the same sites, drawn at random, under several seeds, by the control's name.

    Where a mask removes all of a site or nothing there is nothing to draw.
    """
    own = layout.cuts(mask, partial(Cut, strength=rules.strength))
    found = []
    for draw in range(draws):
        drawn = torch.zeros_like(mask)
        for site, part in layout.parts.items():
            size = part.stop - part.start
            chance = random.Random(f"components {rules.seed + draw} {site}")
            places = chance.sample(range(size), int(mask[part].sum()))
            drawn[part][places] = True
        found.append(layout.cuts(drawn, partial(Cut, strength=rules.strength)))
    return {"RandomComponents": found} if any(cuts != own for cuts in found) else {}


def _by_site(layout: Layout, found: Progress) -> dict[Site, Tensor]:
    """What each component gained in a step."""
    steps = max(1, sum(not math.isnan(row["fit"]) for row in found.looks))
    return {site: found.scores[part] / steps for site, part in layout.parts.items()}


def _told(layout: Layout, prompts: Split) -> dict[str, Any]:
    return dict(
        grid=f"{layout.size} components",
        sites=sorted(map(str, layout.ranks)),
        fitted=len(prompts.validation),
        watched=len(prompts.test),
    )
