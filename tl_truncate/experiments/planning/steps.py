"""The parts of a sweep's work, and what each takes of one worker and of the slowest of several."""

from collections.abc import Sequence
from dataclasses import dataclass

from tl_truncate.experiments.planning.counting.disk import spectrum_bytes
from tl_truncate.experiments.planning.counting.flops import Shape, factorising
from tl_truncate.experiments.planning.counting.passes import Passes
from tl_truncate.experiments.planning.counting.work import NOTHING, Work
from tl_truncate.experiments.planning.machine import Machine
from tl_truncate.experiments.planning.result import Step
from tl_truncate.experiments.sweep.work.units import Unit
from tl_truncate.models.outline import Outline
from tl_truncate.runs.shards import Shard, share
from tl_truncate.weights.holding.placement import model_dtype
from tl_truncate.weights.linear import compute_dtype
from tl_truncate.weights.locate import carrier
from tl_truncate.weights.site import Site


@dataclass(frozen=True)
class _Share:
    """What one worker does."""

    fixed: Work
    cuts: Work
    spectra: tuple[Site, ...]


def _share(passes: Passes, units: Sequence[Unit], lowest: int) -> _Share:
    """A worker's part: a pass of its own, the spectra of its sites, and its units."""
    if not units:
        return _Share(NOTHING, NOTHING, ())
    cuts = [cut for unit in units for cut in unit.cuts]
    highest = max(cut.site.layer for cut in cuts)
    begun: set[Site] = set()
    found = NOTHING
    for unit in units:
        site = unit.cuts[0].site
        found += passes.unit(unit, begins=site not in begun)
        begun.add(site)
    return _Share(passes.fixed(lowest, highest), found, tuple(passes.factorised(cuts)))


def steps_of(
    outline: Outline, passes: Passes, units: Sequence[Unit], machine: Machine, workers: int
) -> tuple[Step, ...]:
    """What a sweep is made of, from reading the weights to the last cut.

    Args:
        outline: of the model.
        passes: over the prompts.
        units: of the sweep.
        machine: that each worker has.
        workers: among whom the units are shared.
    """
    lowest = min(cut.site.layer for unit in units for cut in unit.cuts)
    costs = [unit.cost for unit in units]
    places = [share(costs, Shard(workers, index)) for index in range(1, workers + 1)]
    whole = _share(passes, units, lowest)
    parts = (
        [whole]
        if workers == 1
        else [_share(passes, [units[place] for place in own], lowest) for own in places]
    )
    load = outline.stored_bytes * machine.read
    hashing = outline.n_loaded * model_dtype(outline.model).itemsize * machine.hash

    def spectra(part: _Share) -> float:
        stored = compute_dtype(model_dtype(outline.model))
        return sum(
            machine.factor_seconds(shape) + spectrum_bytes(site, shape, stored) * machine.write
            for site, shape in _shapes(passes, part).items()
        )

    def total(part: _Share) -> float:
        return machine.seconds(part.fixed) + machine.seconds(part.cuts) + spectra(part)

    slowest = max(parts, key=total)
    in_float64 = sum(
        sum(factorising(shape)) for part in parts for shape in _shapes(passes, part).values()
    )
    return (
        Step("reading the weights", 0.0, load, load),
        Step(
            "before the first cut",
            sum(part.fixed.total_flops for part in parts),
            hashing + machine.seconds(whole.fixed),
            hashing + machine.seconds(slowest.fixed),
        ),
        Step("spectra, in float64", float(in_float64), spectra(whole), spectra(slowest)),
        Step(
            "cuts",
            sum(part.cuts.total_flops for part in parts),
            machine.seconds(whole.cuts),
            machine.seconds(slowest.cuts),
        ),
    )


def _shapes(passes: Passes, part: _Share) -> dict[Site, Shape]:
    return {site: carrier(passes.model, site).shape for site in part.spectra}
