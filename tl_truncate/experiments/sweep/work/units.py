"""What of a sweep's work goes together: cuts that share their passes, and what those cost.

A shard, a worker's task and an estimate are made of whole units, so that each cut is run in the company
in which one process runs it, and every bit is that of one process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tl_truncate.experiments.sweep.work.memory import Plan
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site


@dataclass(frozen=True)
class Unit:
    """Cuts that share their passes.

    Attributes:
        cuts: of one site, or a single one that goes by itself.
        cost: in blocks times tokens; what is cut low in a model costs more, since more lies above it.
    """

    cuts: tuple[SiteCut, ...]
    cost: float


def units_of(model: Any, cuts: Sequence[SiteCut], plan: Plan) -> tuple[Unit, ...]:
    """The units of some cuts, in the order in which one process runs them.

    Args:
        model: that is cut.
        cuts: each is made alone.
        plan: of batches and of cuts that share a pass.

    Returns:
        Each cut in exactly one unit: first each cut that goes by itself, then block by block from the
        lowest up, site by site, as many cuts as share a pass.
    """
    whole, blocks = sum(batch.n_tokens for batch in plan.batches), int(model.cfg.n_layers)
    by_site: dict[Site, list[SiteCut]] = {}
    alone = []
    for cut in cuts:
        if goes_by_itself(model, cut):
            alone.append(Unit((cut,), float(blocks * whole)))
        else:
            by_site.setdefault(cut.site, []).append(cut)
    shared = []
    for site in sorted(by_site, key=lambda site: site.layer):
        own = by_site[site]
        for start in range(0, len(own), plan.copies):
            some = tuple(own[start : start + plan.copies])
            shared.append(Unit(some, float(len(some) * (blocks - site.layer) * plan.n_tokens)))
    return (*alone, *shared)


def goes_by_itself(model: Any, cut: SiteCut) -> bool:
    """Whether a cut has to see the tokens at the embedding, or can be made in the weight alone."""
    unseen = cut.needs_input and locate(model, cut.site).input is None
    return cut.reads_tokens or unseen
