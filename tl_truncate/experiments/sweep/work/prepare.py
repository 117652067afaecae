"""All of a sweep that is known before its first pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tl_truncate.experiments.scoring.answers import Outcome
from tl_truncate.experiments.scoring.memory import site_bytes
from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.work.memory import Plan, in_flight, make_plan
from tl_truncate.experiments.sweep.work.units import Unit, units_of
from tl_truncate.runs.codec import plain
from tl_truncate.runs.manifests import HOOKS, TOKENS, make_manifest
from tl_truncate.runs.record import Record, make_record
from tl_truncate.runs.shards import Shard, share
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.tasks.encode import EncodedTask, encode
from tl_truncate.tasks.task import Task
from tl_truncate.weights.holding.placement import model_device
from tl_truncate.weights.identity.content import hashed_once
from tl_truncate.weights.identity.hooks import hooks_at
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.cache import MEMORY_BYTES


@dataclass(frozen=True)
class Prepared:
    """A sweep before its first pass; the same call prepares the same in every process.

    Attributes:
        tasks: that are scored.
        grid: all cuts.
        encoded: the prompts as tokens, for each task.
        plan: of batches and of cuts that share a pass.
        records: what the scores come from, for each task.
        manifest: of the run folder, as plain data.
        units: the grid in the order in which one process runs it, by what shares its passes.
    """

    tasks: tuple[Task, ...]
    grid: tuple[SiteCut, ...]
    encoded: tuple[EncodedTask, ...]
    plan: Plan
    records: tuple[Record, ...]
    manifest: Mapping[str, Any]
    units: tuple[Unit, ...]

    @property
    def lowest(self) -> int:
        """The first block that is cut."""
        return min((cut.site.layer for cut in self.grid), default=0)

    def share(self, shard: Shard) -> list[SiteCut]:
        """The cuts of a shard, in the order of the grid."""
        units = share([unit.cost for unit in self.units], shard)
        own = {setting_key(cut) for unit in units for cut in self.units[unit].cuts}
        return [cut for cut in self.grid if setting_key(cut) in own]

    def baseline(self, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
        """What the uncut model says, as plain data for a run folder."""
        return [
            dict(
                record=plain(record),
                outcome=plain(outcome),
                n_tokens=[len(each.prompt) for each in encoded.prompts],
            )
            for record, outcome, encoded in zip(self.records, outcomes, self.encoded, strict=True)
        ]


def prepare(
    model: Any, tasks: Sequence[Task], grid: Sequence[SiteCut], options: SweepOptions
) -> Prepared:
    """Encodes the prompts, plans the passes, and notes what is computed; runs nothing.

    Raises:
        ValueError: if a task does not fit the tokenizer, or the memory does not suffice.
    """
    options.metrics_on(tasks)
    encoded = [encode(model, each, prepend_bos=options.prepend_bos) for each in tasks]
    plan = plan_of(
        model,
        encoded,
        grid,
        batch_size=options.batch_size,
        tokens_in_flight=options.tokens_in_flight,
        max_memory=options.max_memory,
    )
    with hashed_once(model):
        records = _records(model, tasks, encoded, options.seed)
    return Prepared(
        tuple(tasks),
        tuple(grid),
        tuple(encoded),
        plan,
        tuple(records),
        _manifest(tasks, encoded, records, grid, plan, options) | {HOOKS: hooks_at(model)},
        units_of(model, grid, plan),
    )


def plan_of(
    model: Any,
    encoded: Sequence[EncodedTask],
    grid: Sequence[SiteCut],
    *,
    batch_size: int,
    tokens_in_flight: int | None,
    max_memory: int | None,
    device: torch.device | str | None = None,
) -> Plan:
    """The plan of all cuts of a grid: of a sweep, and of one that is foretold.

    Args:
        model: a HookedTransformer or TransformerBridge, or the outline of one.
        encoded: the tasks.
        grid: all cuts.
        batch_size: most rows in a batch.
        tokens_in_flight: cuts of a site share a pass until it has about so many; None by the device.
        max_memory: most bytes beside the model.
        device: on which the passes are to run; the model's by default.

    Raises:
        ValueError: if the memory does not suffice.
    """
    sites = list(dict.fromkeys(cut.site for cut in grid))
    return make_plan(
        model,
        encoded,
        sites,
        batch_size=batch_size,
        tokens_in_flight=in_flight(tokens_in_flight, model_device(model) if device is None else device),
        max_memory=max_memory,
        at_a_site=len(grid) // max(1, len(sites)),
        factors=_factors(model, grid, max_memory),
    )


def _factors(model: Any, grid: Sequence[SiteCut], max_memory: int | None) -> int:
    """Bytes of spectra: of one site where memory is bounded, else also what stays in memory."""
    by_site: dict[Site, list[SiteCut]] = {}
    for cut in grid:
        by_site.setdefault(cut.site, []).append(cut)
    each = [site_bytes(model, own) for own in by_site.values()]
    kept = 0 if max_memory is not None else min(sum(each), MEMORY_BYTES)
    return max(kept, max(each, default=0))


def _records(
    model: Any, tasks: Sequence[Task], encoded: Sequence[EncodedTask], seed: int
) -> list[Record]:
    around = Cuts(active_cuts(model))
    return [
        make_record(model, task, cuts=around, prepend_bos=each.prepend_bos, seed=seed)
        for task, each in zip(tasks, encoded, strict=True)
    ]


def _manifest(
    tasks: Sequence[Task],
    encoded: Sequence[EncodedTask],
    records: Sequence[Record],
    grid: Sequence[SiteCut],
    plan: Plan,
    options: SweepOptions,
) -> dict[str, Any]:
    of_task = ("task", "task_hash", "n_prompts", "has_global")
    common = {name: value for name, value in plain(records[0]).items() if name not in of_task}
    return make_manifest(
        "sweep",
        **common
        | dict(
            tasks=[task.to_json() for task in tasks],
            task_hashes={task.name: task.hash for task in tasks},
            task_order=[task.name for task in tasks],
            **{TOKENS: {task.name: each.hash for task, each in zip(tasks, encoded, strict=True)}},
            grid=[cut.to_json() for cut in grid],
            metrics=list(options.metrics_on(tasks)),
            resamples=options.resamples,
            batches=[[len(batch.rows), len(batch.rows[0])] for batch in plan.batches],
            cuts_in_a_pass=plan.copies,
        ),
    )
