"""`tl-truncate plan`: what a sweep will take, before it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tl_truncate.cli.dynamics import read_steps
from tl_truncate.cli.shared.app import app, kind, say
from tl_truncate.cli.shared.grid import GridOptions
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import SWEPT, PassOptions
from tl_truncate.cli.shared.options import (
    PATH,
    Checkpoint,
    Dtype,
    ModelName,
    SeveralShots,
    TaskNames,
    WithControls,
    can_be_made,
)
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.cli.shared.tasks import DrawnOptions, check_task_name, read_shots
from tl_truncate.experiments.planning.plan import plan
from tl_truncate.experiments.planning.result import RunPlan
from tl_truncate.experiments.sweep.grid import Control
from tl_truncate.models.outline import Outline, read_outline
from tl_truncate.runs.files import rows_of
from tl_truncate.weights.keep.defaults import KEEPS


@dataclass(frozen=True, kw_only=True)
class OutlineOptions:
    """A model of which the configuration is read, and no weight."""

    model: ModelName
    checkpoint: Checkpoint = None
    dtype: Dtype = "float32"

    def read(self) -> Outline:
        """Its outline."""
        return read_outline(self.model, checkpoint=self.checkpoint, dtype=self.dtype)


@app.command("plan")
@kind
@grouped
def plan_command(
    *,
    source: OutlineOptions,
    task: TaskNames = None,
    cutting: GridOptions,
    controls: WithControls = False,
    workers: Annotated[int, typer.Option(help="Shards that the sweep is run in.")] = 1,
    device: Annotated[
        str | None,
        typer.Option(
            help="A GPU by its published figures: v100, t4, a100, l40s, h100, h200. By default this "
            "machine, measured."
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Of each prompt, for a model without a tokenizer.")
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(help="Training steps, at each of which the sweep is made, as for `dynamics`."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="The folder that the planned run is to write to.",
            callback=can_be_made,
            **PATH,
        ),
    ] = Path("runs/sweep"),
    prompts: DrawnOptions,
    shots: SeveralShots = None,
    passes: PassOptions = SWEPT,
    printed: PrintOptions,
) -> None:
    """Says what a sweep will take: time, memory, disk, downloads, and the command that runs it.

    Example: `tl-truncate plan --model EleutherAI/pythia-12b --task ioi --n 100 --keep 0.01 --keep 0.1
    --dtype bfloat16 --workers 8 --device h200`

    The model's configuration and tokenizer are read, and no weight. Nothing is written.
    """
    names = [check_task_name(name) for name in task or ["ioi"]]
    grid = cutting.read(KEEPS)
    outline = source.read()
    kinds: tuple[Control, ...] = ("random_subspace", "norm_matched") if controls else ()
    given = [text for name in names for text in ("--task", name)]
    found = plan(
        outline,
        [prompts.make(name, outline.model) for name in names],
        sites=grid.sites(outline.model),
        keeps=grid.keeps,
        controls=kinds,
        shots=read_shots(shots),
        prepend_bos=prompts.prepend_bos,
        seed=prompts.seed,
        checkpoints=() if steps is None else read_steps(steps, source.model),
        workers=workers,
        device=device,
        tokens=tokens,
        out=str(out),
        prompts=given if prompts.n is None else [*given, "--n", str(prompts.n)],
        **passes.to_arguments(),
    )
    if not printed.print(_plain(found), found.frame):
        say(str(found))


def _plain(found: RunPlan) -> dict[str, Any]:
    sizes, grid = found.footprint, found.grid
    return dict(
        model=found.model,
        tasks=list(grid.tasks),
        prompts=grid.prompts,
        tokens=grid.tokens,
        settings=grid.settings,
        steps=rows_of(found.frame),
        seconds=found.seconds,
        workers=found.workers,
        worker_bytes=sizes.worker,
        spectra_bytes=sizes.spectra,
        run_bytes=sizes.run,
        download_bytes=sizes.download,
        machine=found.machine.name,
        source=found.machine.source,
        commands=list(found.commands),
        notes=list(found.notes),
    )
