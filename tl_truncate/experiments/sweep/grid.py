"""The settings of a sweep: every site with every keep, and controls beside them."""

import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch

from tl_truncate.surgery.controls import NormMatched, RandomSubspace
from tl_truncate.surgery.cut import Cut, Cuts, SiteCut, require_sketchable
from tl_truncate.surgery.hooks import active_cuts, require_no_overlap
from tl_truncate.weights.keep import Keep, LaserCompat, as_keep
from tl_truncate.weights.locate import find_sites, locate
from tl_truncate.weights.site import Site

Control = Literal["random_subspace", "norm_matched"]
_CONTROLS: dict[Control, Any] = {"random_subspace": RandomSubspace, "norm_matched": NormMatched}


def make_grid(
    model: Any,
    sites: Sequence[Site | str] | None,
    keeps: Sequence[Keep | int | float],
    controls: Sequence[Control],
    seed: int,
    cuts: Sequence[SiteCut] = (),
) -> list[SiteCut]:
    """Every site with every keep, each followed by its controls, and further cuts; checked against the
    model. With further cuts alone there is no other grid.

    Nothing kept and everything kept have no random counterpart, and so no controls.

    Raises:
        ValueError: if a site is not in the model, a keep does not fit, or something is asked twice.
    """
    unknown = [name for name in controls if name not in get_args(Control)]
    if unknown:
        raise ValueError(f"Controls must be among {', '.join(get_args(Control))}, got {unknown[0]!r}.")
    more = list(Cuts(cuts))
    default = [] if more else find_sites(model)
    chosen = default if sites is None else [Site.parse(site) for site in sites]
    rules = [as_keep(keep) for keep in keeps] if chosen or not more else []
    if not more and (not chosen or not rules):
        raise ValueError(
            f"A sweep must have at least one site and one keep, got {len(chosen)} and {len(rules)}."
        )
    for kind, values in (("site", chosen), ("keep", rules)):
        twice = [value for place, value in enumerate(values) if value in values[:place]]
        if twice:
            raise ValueError(f"Each {kind} of a sweep must be given once, got {twice[0]} twice.")
    grid: list[SiteCut] = []
    around = [cut.site for cut in active_cuts(model)]
    for site in chosen:
        linear = locate(model, site)
        require_no_overlap([*around, site])
        if any(isinstance(rule, LaserCompat) for rule in rules):
            require_sketchable(linear)
        shape = linear.shape
        for rule in rules:
            grid.append(Cut(site, rule))
            if _count(rule, shape, site) not in (0, min(shape)):
                grid += [_CONTROLS[control](site, rule, seed) for control in controls]
    for cut in more:
        locate(model, cut.site)
        require_no_overlap([*around, cut.site])
        if cut in grid:
            raise ValueError(f"Each cut of a sweep must be given once, got {cut!r} twice.")
        grid.append(cut)
    return grid


def _count(rule: Keep, shape: tuple[int, int], site: Site) -> int | None:
    """What the rule keeps of any spectrum of this shape; it is tried on one, so that it fails now."""
    max_rank = min(shape)
    try:
        count = rule.count(max_rank)
        if count is None:
            rule.indices(torch.linspace(1.0, 0.5, max_rank), shape)
        return count
    except ValueError as problem:
        raise ValueError(f"{site}: {problem}") from None


def setting_key(cut: SiteCut) -> str:
    """A text that is the same for equal settings, and only for those."""
    return json.dumps(cut.to_json(), sort_keys=True)
