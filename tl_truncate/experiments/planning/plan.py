"""What a sweep will take, before any weight of the model is read or fetched."""

from collections.abc import Sequence
from typing import Any

import torch

from tl_truncate.checks import positive
from tl_truncate.experiments.planning.command import STEP, Asked, arguments, shown
from tl_truncate.experiments.planning.counting.disk import run_bytes, spectrum_bytes
from tl_truncate.experiments.planning.counting.flops import BlockShape
from tl_truncate.experiments.planning.counting.passes import Passes, block_shape
from tl_truncate.experiments.planning.machine import Machine, card, require_card
from tl_truncate.experiments.planning.measure import measure
from tl_truncate.experiments.planning.reading import encoded_for, outline_for
from tl_truncate.experiments.planning.result import Footprint, Grid, RunPlan
from tl_truncate.experiments.planning.steps import steps_of
from tl_truncate.experiments.scoring.together.courses import reason_against
from tl_truncate.experiments.sweep.grid import Control, make_grid
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.sweep import check_tasks
from tl_truncate.experiments.sweep.work.memory import Plan
from tl_truncate.experiments.sweep.work.prepare import plan_of
from tl_truncate.experiments.sweep.work.units import units_of
from tl_truncate.models.outline import Outline, block_of
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.tasks.demonstrations.shots import with_shots
from tl_truncate.tasks.encode import EncodedTask
from tl_truncate.tasks.task import Task
from tl_truncate.weights.holding.placement import model_dtype
from tl_truncate.weights.keep import Keep, as_keep
from tl_truncate.weights.keep.defaults import KEEPS
from tl_truncate.weights.linear import compute_dtype
from tl_truncate.weights.locate import carrier, find_sites, n_layers
from tl_truncate.weights.site import Site

#: Bytes of spectra that the cache keeps if nothing else is said.
_CACHE = 8e9


def plan(
    model: Any,
    task: Task | Sequence[Task],
    *,
    sites: Sequence[Site | str] | None = None,
    keeps: Sequence[Keep | int | float] = KEEPS,
    cuts: Sequence[SiteCut] = (),
    controls: Sequence[Control] = (),
    draws: int | None = None,
    shots: Sequence[int] | None = None,
    prepend_bos: bool | None = None,
    batch_size: int = 64,
    tokens_in_flight: int | None = None,
    max_memory: int | None = None,
    seed: int = 0,
    checkpoint: int | None = None,
    checkpoints: Sequence[int] = (),
    dtype: torch.dtype | str = torch.float32,
    workers: int = 1,
    device: str | None = None,
    tokens: int | None = None,
    out: str = "runs/sweep",
    prompts: Sequence[str] = (),
) -> RunPlan:
    """What a sweep will take: time, memory, disk and downloads, and the command that runs it.

    Of the model its configuration and the files of its tokenizer are read, and no weight. The arguments
    are those of `sweep`, and are checked as there. Without a device this machine is asked how fast it
    is, in a few seconds, at the model's own shapes and with the threads that torch has now.

    Args:
        model: a name or folder as `load_model` takes it, a configuration of transformers, a model that
            is there, or the outline of one.
        task: one task, or several.
        sites: as for `sweep`.
        keeps: as for `sweep`.
        cuts: as for `sweep`.
        controls: as for `sweep`.
        draws: as for `sweep`.
        shots: as for `sweep`.
        prepend_bos: as for `sweep`.
        batch_size: as for `sweep`.
        tokens_in_flight: as for `sweep`.
        max_memory: as for `sweep`.
        seed: as for `sweep`.
        checkpoint: training step, as for `load_model`.
        checkpoints: training steps at each of which the sweep is made.
        dtype: of the weights, as for `load_model`.
        workers: shards that the sweep is run in, each on such a machine.
        device: a GPU by its published figures: v100, t4, a100, l40s, h100 or h200.
        tokens: of each prompt, where the model has no tokenizer to count them.
        out: the folder for the command.
        prompts: how the command names the tasks; by default as files to be saved first.

    Returns:
        The plan; printed, it is a table.

    Raises:
        ValueError: as `sweep` does, and for an unknown device, a configuration that cannot be outlined,
            or prompts that no tokenizer counts.
        OSError: if the configuration is neither in the local cache nor reachable.

    Source: derived in the documentation, "What a sweep has to compute".

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> found = tlt.plan(model, task, sites=["blocks.1.mlp.W_out"], keeps=[0.0, 0.5], device="a100")
        >>> found.grid.settings, found.grid.sites, found.grid.spectra
        (2, 1, 1)
    """
    workers = positive("workers", workers)
    if device is not None:
        require_card(device)
    options = SweepOptions(
        prepend_bos=prepend_bos,
        batch_size=batch_size,
        tokens_in_flight=tokens_in_flight,
        max_memory=max_memory,
        seed=seed,
    )
    outline = outline_for(model, checkpoint, checkpoints, dtype)
    given = check_tasks(outline.model, task)
    tasks = with_shots(given, shots, seed)
    shape = block_shape(outline.model)
    grid = make_grid(outline.model, sites, keeps, controls, seed, cuts, draws)
    encoded = encoded_for(outline, tasks, prepend_bos, tokens)
    whole = find_sites(outline.model) if not cuts and sites is None else sites or ()
    asked = Asked(
        model=outline.asked,
        loading=_loading(outline, device, bool(checkpoints)),
        checkpoints=tuple(checkpoints),
        tasks=tuple(tasks),
        prompts=tuple(prompts),
        files=tuple(each.name for each in given),
        shots=None if shots is None else tuple(shots),
        sites=tuple(map(Site.parse, whole)),
        keeps=tuple(map(as_keep, keeps)),
        cuts=tuple(Cuts(cuts)),
        controls=tuple(controls),
        draws=draws,
        options=options,
        out=out,
        workers=workers,
    )
    return _counted(asked, outline, encoded, grid, shape, options, device, tokens)


def _counted(
    asked: Asked,
    outline: Outline,
    encoded: Sequence[EncodedTask],
    grid: Sequence[SiteCut],
    shape: BlockShape,
    options: SweepOptions,
    device: str | None,
    tokens: int | None,
) -> RunPlan:
    """The table, from what the passes are and how fast a machine is."""
    passes = Passes(
        outline.model,
        _batched(outline, encoded, grid, options, device),
        shape,
        int(outline.model.cfg.d_vocab),
    )
    return _planned(asked, outline, passes, grid, _machine(outline, passes, device), tokens)


def _batched(
    outline: Outline,
    encoded: Sequence[EncodedTask],
    grid: Sequence[SiteCut],
    options: SweepOptions,
    device: str | None,
) -> Plan:
    return plan_of(
        outline.model,
        encoded,
        grid,
        batch_size=options.batch_size,
        tokens_in_flight=options.tokens_in_flight,
        max_memory=options.max_memory,
        device=None if device is None else "cuda",
    )


def _planned(
    asked: Asked,
    outline: Outline,
    passes: Passes,
    grid: Sequence[SiteCut],
    machine: Machine,
    tokens: int | None,
) -> RunPlan:
    """The table, once all is known."""
    times = len(asked.checkpoints) or 1
    units = units_of(outline.model, grid, passes.plan)
    given = arguments(asked, outline.model)
    footprint = _footprint(outline, passes, grid, asked)
    steps = steps_of(outline, passes, units, machine, asked.workers)
    return RunPlan(
        model=_told(outline),
        grid=Grid(
            tasks=tuple(each.name for each in asked.tasks),
            prompts=sum(map(len, asked.tasks)),
            tokens=passes.tokens,
            settings=len(grid) * times,
            sites=len({cut.site for cut in grid}),
            spectra=len(passes.factorised(grid)) * times,
            units=len(units) * times,
            checkpoints=asked.checkpoints,
        ),
        steps=tuple(step * times for step in steps),
        footprint=footprint,
        machine=machine,
        workers=asked.workers,
        arguments=given,
        commands=shown(asked, given),
        notes=_notes(asked, given, passes, grid, footprint, machine, tokens),
    )


def _machine(outline: Outline, passes: Passes, device: str | None) -> Machine:
    if device is not None:
        return card(device, model_dtype(outline.model), passes.shape.numbers)
    return measure(outline.model if outline.config is None else block_of(outline), passes)


def _footprint(outline: Outline, passes: Passes, grid: Sequence[SiteCut], asked: Asked) -> Footprint:
    dtype = model_dtype(outline.model)
    stored = compute_dtype(dtype)
    shapes = {site: carrier(passes.model, site).shape for site in passes.factorised(grid)}
    times = len(asked.checkpoints) or 1
    download = outline.download(asked.checkpoints)
    return Footprint(
        weights=outline.n_loaded * dtype.itemsize,
        beside=passes.plan.memory,
        spectra=sum(spectrum_bytes(*each, stored) for each in shapes.items()) * times,
        run=run_bytes(grid, asked.tasks) * times,
        download=None if outline.asked is None else download.size,
        fetched=download.revisions,
    )


def _loading(outline: Outline, device: str | None, several: bool) -> tuple[str, ...]:
    dtype = str(model_dtype(outline.model)).removeprefix("torch.")
    step = STEP if several else outline.checkpoint
    found = [] if step is None else ["--checkpoint", str(step)]
    found += [] if dtype == "float32" else ["--dtype", dtype]
    return (*found, *([] if device is None else ["--device", "cuda"]))


def _told(outline: Outline) -> str:
    model = outline.model
    size = outline.n_parameters
    told = f"{size / 1e9:.3g} billion" if size >= 1e9 else f"{size / 1e6:.3g} million"
    dtype = str(model_dtype(model)).removeprefix("torch.")
    return f"{outline.name}: {n_layers(model)} blocks, {told} parameters, {dtype}"


def _notes(
    asked: Asked,
    given: Sequence[str] | None,
    passes: Passes,
    grid: Sequence[SiteCut],
    footprint: Footprint,
    machine: Machine,
    tokens: int | None,
) -> tuple[str, ...]:
    """What is not known, and what would go wrong."""
    notes = []
    if tokens is not None:
        notes.append(f"There is no tokenizer: each prompt is taken to have {tokens} tokens, as said.")
    if not passes.replays:
        reason = reason_against(passes.model)
        notes.append(f"Each cut takes a pass through the whole model: {reason}.")
    unknown = sum(not passes.is_known(cut) for cut in grid)
    if unknown:
        notes.append(
            f"What {unknown} of the settings keep is known only with the spectrum; half is assumed."
        )
    if machine.memory is not None and footprint.worker > machine.memory:
        notes.append(
            f"A worker needs {footprint.worker / 2**30:.0f} GB, and {machine.name} has "
            f"{machine.memory / 2**30:.0f} GB: load it in bfloat16, or over several devices."
        )
    if footprint.spectra > _CACHE:
        notes.append(
            "The cache keeps 8 GB of spectra unless TL_TRUNCATE_CACHE_GB says more: then the oldest go, "
            "and are computed again."
        )
    if not asked.prompts and given is not None:
        names = ", ".join(f"task.save('{name}.json')" for name in asked.files)
        notes.append(f"The command reads the prompts from files: {names}.")
    if asked.model is None:
        notes.append("The model was not given by a name: put the one to load in its place.")
    return tuple(notes)
