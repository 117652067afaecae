"""The settings of a sweep: every site with every keep, and controls beside them."""

import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch

from tl_truncate.surgery.controls import NormMatched, RandomSubspace
from tl_truncate.surgery.cut import Cut, SiteCut, kept_components, require_sketchable
from tl_truncate.surgery.hooks import active_cuts, require_no_overlap
from tl_truncate.weights.keep import Keep, LaserCompat, as_keep
from tl_truncate.weights.locate import find_sites, locate
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectrum import spectrum

Control = Literal["random_subspace", "norm_matched"]
_CONTROLS: dict[Control, Any] = {"random_subspace": RandomSubspace, "norm_matched": NormMatched}


def make_grid(
    model: Any,
    sites: Sequence[Site | str] | None,
    keeps: Sequence[Keep | int | float],
    controls: Sequence[Control],
    seed: int,
) -> list[SiteCut]:
    """Every site with every keep, each followed by its controls; checked against the model.

    Nothing kept and everything kept have no random counterpart, and so no controls.

    Raises:
        ValueError: if a site is not in the model, a keep does not fit, or something is asked twice.
    """
    unknown = [name for name in controls if name not in get_args(Control)]
    if unknown:
        raise ValueError(f"Controls must be among {', '.join(get_args(Control))}, got {unknown[0]!r}.")
    chosen = find_sites(model) if sites is None else [Site.parse(site) for site in sites]
    rules = [as_keep(keep) for keep in keeps]
    if not chosen or not rules:
        raise ValueError(
            f"A sweep must have at least one site and one keep, got {len(chosen)} and {len(rules)}."
        )
    for kind, values in (("site", chosen), ("keep", rules)):
        twice = [value for place, value in enumerate(values) if value in values[:place]]
        if twice:
            raise ValueError(f"Each {kind} of a sweep must be given once, got {twice[0]} twice.")
    cuts: list[SiteCut] = []
    around = [cut.site for cut in active_cuts(model)]
    for site in chosen:
        linear = locate(model, site)
        require_no_overlap([*around, site])
        if any(isinstance(rule, LaserCompat) for rule in rules):
            require_sketchable(linear)
        shape = linear.shape
        for rule in rules:
            cuts.append(Cut(site, rule))
            if _count(rule, shape, site) not in (0, min(shape)):
                cuts += [_CONTROLS[control](site, rule, seed) for control in controls]
    return cuts


def _count(rule: Keep, shape: tuple[int, int], site: Site) -> int | None:
    """What the rule keeps of any spectrum of this shape; it is tried on one, so that it fails now."""
    max_rank = min(shape)
    try:
        count = rule.count(max_rank)
        if count is None and not isinstance(rule, LaserCompat):
            rule.indices(torch.linspace(1.0, 0.5, max_rank), shape)
        return count
    except ValueError as problem:
        raise ValueError(f"{site}: {problem}") from None


def kept_rank(model: Any, cut: SiteCut) -> int:
    """How many components a cut keeps of its site's spectrum."""
    keep = getattr(cut, "keep", None)
    if keep is None:
        return 0
    max_rank = min(locate(model, cut.site).shape)
    count: int | None = keep.count(max_rank)
    if count is not None:
        return count
    if isinstance(keep, LaserCompat):
        return int(keep.rho * max_rank)
    return len(kept_components(spectrum(model, cut.site), keep, cut.site))


def setting_key(cut: SiteCut) -> str:
    """A text that is the same for equal settings, and only for those."""
    return json.dumps(cut.to_json(), sort_keys=True)


def keep_value(cut: SiteCut) -> float | int | str:
    """A cut's keep as a table shows it: a fraction, a rank, or a rule's text; 0.0 for a whole weight.

    Example:
        >>> keep_value(Cut("blocks.0.mlp.W_in", 0.1)), keep_value(Cut("blocks.0.mlp.W_in", 8))
        (0.1, 8)
    """
    keep = getattr(cut, "keep", None)
    if keep is None:
        return 0.0
    if type(keep).__name__ in ("Fraction", "Rank"):
        value: float | int = getattr(keep, "rho", getattr(keep, "k", 0))
        return value
    return repr(keep)
