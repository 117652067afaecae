"""Two ways to choose a composition of cuts on validation prompts: halving, and LASER's own."""

import math
import random
from collections.abc import Sequence

from tl_truncate.experiments.search.judge import Candidate, Judge, Pick
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.weights.circuits import weights_of

#: Prompts of the first looks; the last look is at all of them.
RUNGS = (8, 16)
#: A look keeps one candidate of this many for the next.
SHRINK = 4


def halving(
    judge: Judge, grid: Sequence[SiteCut], *, greedy: int, budget: float | None, seed: int
) -> Candidate | None:
    """Successive halving for each next cut: all cuts on 8 prompts, the best on 16, those on all.

    Cuts are added one at a time while the validation objective rises.

    Args:
        judge: of candidates.
        grid: cuts to choose from.
        greedy: most cuts in the composition.
        budget: most work for each cut added, in settings scored on all validation prompts; if it does
            not suffice for the whole grid, a random part of the grid is looked at. Further looks, in
            place of cuts over the bound on the cost, come on top.
        seed: of that part.

    Returns:
        The best composition, or None if no cut raises the objective within the bound.

    Source: Jamieson and Talwalkar 2016 (arXiv 1502.07943), with exact scores on more and more prompts.
    """
    best: Candidate | None = None
    for step in range(greedy):
        around = Cuts() if best is None else best.cuts
        taken = {weight for cut in around for weight in weights_of(cut.site)}
        left = [cut for cut in grid if not weights_of(cut.site) & taken]
        if not left:
            break
        among = _affordable(judge, left, budget, seed + step)
        found = _halve(judge, best, among, step, [rung for rung in RUNGS if rung < judge.prompts])
        if found.best is None:
            break
        best = found.best
    return best


def _halve(
    judge: Judge, best: Candidate | None, cuts: Sequence[SiteCut], step: int, rungs: Sequence[int]
) -> Pick:
    """The best of some cuts beside those chosen so far.

    Where all that raise the objective in the last look are over the bound on the cost, the next quarter
    of the look before is tried: a cut that breaks the model must not hide one that does not.
    """
    around = Cuts() if best is None else best.cuts
    if not rungs or len(cuts) <= SHRINK:
        return judge.pick(judge.look(around, cuts, judge.prompts, f"cut {step + 1} on all"), best)
    ranked = judge.look(around, cuts, rungs[0], f"cut {step + 1} on {rungs[0]}")
    size = math.ceil(len(cuts) / SHRINK)
    refused = 0
    for start in range(0, len(ranked), size):
        kept = [candidate.cuts[-1] for candidate in ranked[start : start + size]]
        found = _halve(judge, best, [cut for cut in cuts if cut in kept], step, rungs[1:])
        refused += found.refused
        if found.best is not None or not found.refused:
            return Pick(found.best, refused)
    return Pick(None, refused)


def _affordable(
    judge: Judge, grid: Sequence[SiteCut], budget: float | None, seed: int
) -> Sequence[SiteCut]:
    """The whole grid, or as much of it, drawn at random, as the budget is enough for."""
    if budget is None:
        return grid
    rungs = [rung for rung in RUNGS if rung < judge.prompts]
    shares = [rung / judge.prompts for rung in rungs] + [1.0]
    of_one = sum(share / SHRINK**place for place, share in enumerate(shares))
    count = max(1, min(len(grid), int(budget / of_one)))
    chosen = set(random.Random(f"budget {seed}").sample(range(len(grid)), count))
    return [cut for place, cut in enumerate(grid) if place in chosen]


def laser(judge: Judge, grid: Sequence[SiteCut], *, greedy: int) -> Candidate | None:
    """LASER's published search: every layer, matrix and rho on all validation prompts, the single best.

    With `greedy` above 1, its composition: from the last layer backwards, the best cut of each layer is
    added if the validation objective rises, until there are enough.

    Args:
        judge: of candidates.
        grid: cuts to choose from.
        greedy: most cuts in the composition.

    Returns:
        The best, or None if no cut raises the objective within the bound.

    Source: LASER (Sharma et al. 2023), section 5 and its composition over layers.
    """
    if greedy == 1:
        return judge.pick(judge.look(Cuts(), grid, judge.prompts, "grid"), None).best
    best: Candidate | None = None
    for layer in sorted({cut.site.layer for cut in grid}, reverse=True):
        here = [cut for cut in grid if cut.site.layer == layer]
        around = Cuts() if best is None else best.cuts
        best = judge.pick(judge.look(around, here, judge.prompts, f"layer {layer}"), best).best or best
        if best is not None and len(best.cuts) == greedy:
            break
    return best
