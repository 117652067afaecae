"""The settings of a sweep: every site with every keep, and controls beside them."""

import json
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch

from tl_truncate.runs.sharded.kinds import RunKind
from tl_truncate.surgery.circuits import require_no_overlap
from tl_truncate.surgery.controls import draws_for, is_control
from tl_truncate.surgery.cut import Cut, Cuts, SiteCut, require_sketchable
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.weights.keep import Keep, LaserCompat, as_keep
from tl_truncate.weights.linear import Linear
from tl_truncate.weights.locate import carrier, find_sites
from tl_truncate.weights.site import Site

Control = Literal["random_subspace", "norm_matched"]
_CONTROLS: dict[Control, str] = {"random_subspace": "RandomSubspace", "norm_matched": "NormMatched"}


def make_grid(
    model: Any,
    sites: Sequence[Site | str] | None,
    keeps: Sequence[Keep | int | float],
    controls: Sequence[Control],
    seed: int,
    cuts: Sequence[SiteCut] = (),
    draws: int | None = None,
) -> list[SiteCut]:
    """Every site with every keep, and further cuts, each followed by its controls; checked against the
    model. With further cuts alone there is no other grid.

    Nothing kept and everything kept have no random counterpart, and so no controls. A control is drawn
    with as many seeds as there are draws: 16 for a single site, else 4, if nothing else is asked.

    Raises:
        ValueError: if a site is not in the model, a keep does not fit, something is asked twice, or a
            kind of control that no cut has.
    """
    check_controls(controls)
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
    sites_cut = {*chosen, *(cut.site for cut in more)}
    seeds = range(seed, seed + draws_for(len(sites_cut), draws))
    for site in chosen:
        linear = carrier(model, site)
        require_no_overlap(model, [*around, site])
        if any(isinstance(rule, LaserCompat) for rule in rules):
            require_sketchable(linear, site)
        for rule in rules:
            grid.append(Cut(site, rule))
            _check_fits(rule, linear, site)
            grid += _drawn(model, grid[-1], controls, seeds)
    known = set(map(setting_key, [*grid, *more]))
    for cut in more:
        carrier(model, cut.site)
        require_no_overlap(model, [*around, cut.site])
        if cut in grid:
            raise ValueError(f"Each cut of a sweep must be given once, got {cut!r} twice.")
        grid.append(cut)
        for each in _drawn(model, cut, controls, seeds):
            # Two cuts may have one control, and one may be among the cuts that were given.
            if (key := setting_key(each)) not in known:
                known.add(key)
                grid.append(each)
    _check_some_have(grid, controls)
    return grid


def _drawn(model: Any, cut: SiteCut, controls: Sequence[Control], seeds: Sequence[int]) -> list[SiteCut]:
    """All draws of the controls that a cut has and that are not the cut itself, kind by kind."""
    if not controls or is_control(cut):
        return []
    found = [cut.controls(seed) for seed in seeds]
    kinds = [_CONTROLS[control] for control in controls if _CONTROLS[control] in found[0]]
    apart = [kind for kind in kinds if not found[0][kind].equals_the_cut(model)]
    return [each[kind] for kind in apart for each in found]


def _check_some_have(grid: Sequence[SiteCut], controls: Sequence[Control]) -> None:
    """Refuses controls that no cut has, since a page would say that they were not asked for.

    Raises:
        ValueError: if there are some.
    """
    known: dict[str, None] = {}
    for cut in grid if controls else ():
        if not is_control(cut):
            known |= dict.fromkeys(cut.controls(0))
    absent = [control for control in controls if _CONTROLS[control] not in known]
    if absent:
        raise ValueError(
            f"Controls must be such that some cut of the sweep has them, got {absent[0]!r}; these have "
            f"{', '.join(known) or 'none'}. Leave it out, and give others as cuts: "
            "cuts=[cut, *(cut.controls(seed)[kind] for seed in range(16))]."
        )


def check_controls(controls: Sequence[str]) -> None:
    """Checks the names of controls.

    Raises:
        ValueError: if one is unknown.
    """
    unknown = [name for name in controls if name not in get_args(Control)]
    if unknown:
        raise ValueError(f"Controls must be among {', '.join(get_args(Control))}, got {unknown[0]!r}.")


def _check_fits(rule: Keep, linear: Linear, site: Site) -> None:
    """Tries the rule on a spectrum of the site's shape, so that it fails now."""
    max_rank, d_model = min(linear.shape), max(linear.shape)
    shape = (d_model, d_model) if site.is_circuit else linear.shape
    try:
        if rule.count(max_rank) is None:
            rule.indices(torch.linspace(1.0, 0.5, max_rank), shape)
    except ValueError as problem:
        raise ValueError(f"{site}: {problem}") from None


def setting_key(cut: SiteCut) -> str:
    """A text that is the same for equal settings, and only for those."""
    return _key(cut.to_json())


def _key(cut: Any) -> str:
    return json.dumps(cut, sort_keys=True)


#: A sweep's run folder. What it may be gone on with changes the number of a setting by rounding at most;
#: of tasks their hashes and their order are compared.
SWEEP = RunKind(
    "sweep",
    wanted=lambda manifest: list(map(_key, manifest["grid"])),
    told=lambda line: [_key(line["cut"])],
    free=("model", "tasks", "metrics", "resamples"),
    grows=("grid",),
    noted=("device", "batches", "cuts_in_a_pass"),
    alike=("batches", "cuts_in_a_pass"),
)
