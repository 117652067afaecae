"""`tl-truncate sweep`: every cut of a grid, each alone."""

from collections.abc import Sequence
from pathlib import Path

from tl_truncate.cli.shared.app import app, kind, say
from tl_truncate.cli.shared.changes import change_of
from tl_truncate.cli.shared.grid import GridOptions
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import SWEPT, ModelOptions, PassOptions
from tl_truncate.cli.shared.options import (
    Figures,
    Resume,
    RunFolder,
    SeveralShots,
    ShardText,
    TaskNames,
    WithControls,
)
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.cli.shared.tables import Column, say_table
from tl_truncate.cli.shared.tasks import DrawnOptions, check_task_name, read_shots
from tl_truncate.cli.shared.workers import RayOptions, asked_of
from tl_truncate.cli.shared.writing import check_figures, say_shard, say_written, write_tables
from tl_truncate.experiments.scoring.metrics import PROBABILITIES, label_of, metrics_of
from tl_truncate.experiments.sweep.grid import Control
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.experiments.sweep.sweep import sweep
from tl_truncate.runs.files import rows_of
from tl_truncate.runs.shards import as_pair, as_shard
from tl_truncate.weights.keep.defaults import KEEPS
from tl_truncate.weights.spoken import short_keep, short_site

_SHOWN = 10


@app.command("sweep")
@kind
@grouped
def sweep_command(
    *,
    source: ModelOptions,
    out: RunFolder,
    task: TaskNames = None,
    cutting: GridOptions,
    controls: WithControls = False,
    resume: Resume = False,
    shard: ShardText = None,
    ray: RayOptions,
    prompts: DrawnOptions,
    shots: SeveralShots = None,
    passes: PassOptions = SWEPT,
    figures: Figures = True,
    printed: PrintOptions,
) -> None:
    """Scores every cut of a grid of sites and keeps, each alone; can be stopped and resumed.

    Example: `tl-truncate sweep --model demo --task ioi --n 60 --out runs/ioi`

    Writes the run folder with table.csv and heatmap.png in it, and shots.png with --shots.
    """
    part, numbers = as_shard(shard), read_shots(shots)
    check_figures(figures and part is None, "plots")
    names = [check_task_name(name) for name in task or ["ioi"]]
    grid = cutting.read(KEEPS)
    kinds: tuple[Control, ...] = ("random_subspace", "norm_matched") if controls else ()
    with asked_of(source, names, prompts, grid, ray) as asked:
        result = sweep(
            asked.model,
            asked.tasks,
            sites=asked.sites,
            keeps=grid.keeps,
            controls=kinds,
            shots=numbers,
            run_dir=out / "run",
            shard=as_pair(part),
            on=asked.on,
            resume=resume or part is not None,
            prepend_bos=prompts.prepend_bos,
            seed=prompts.seed,
            **passes.to_arguments(),
        )
    if part is not None and printed.for_people:
        say_shard(part, out, f"{len(result.settings)} of {len(result.grid)} settings")
    else:
        say_sweep(result, out if part is None else None, figures=figures, printed=printed)


def say_sweep(result: SweepResult, out: Path | None, *, figures: bool, printed: PrintOptions) -> None:
    """Writes the tables of a whole sweep, and says what is in them."""
    written: list[str] = []
    if out is not None:
        written = write_tables(out, {"table": result.frame})
        written += _draw(result, out) if figures else []
    if printed.print(rows_of(result.frame), result.frame):
        return
    for each in result.tasks:
        _say_largest(result, each.name)
    say(
        "Rows are picked by looking at these prompts: test a pick on prompts of its own, as "
        "`tl-truncate search` does."
    )
    if out is not None:
        say_written(out, ["run", *written])


def _draw(result: SweepResult, out: Path) -> list[str]:
    """A heatmap for each task, and how they score against their demonstrations; the files' names."""
    from tl_truncate.plots import heatmap, save, shots

    names = []
    # Single heads have no place in a picture of whole matrices.
    for place, each in enumerate(result.tasks if result.frame["head"].isna().any() else ()):
        names.append(f"heatmap{'' if place == 0 else f'-{each.name}'}.png")
        save(heatmap(result, task=each.name), out / names[-1])
    if "shots" in result.frame:
        save(shots(result), out / "shots.png")
        names.append("shots.png")
    return names


def _say_largest(result: SweepResult, task: str) -> None:
    """The cuts that raise the right answer most."""
    frame = result.frame[(result.frame["task"] == task) & (result.frame["kind"] == "Cut")]
    base = result.baselines[task]
    rows = list(frame.nlargest(_SHOWN, "p_in_context_change").itertuples())
    metrics = metrics_of(base, PROBABILITIES)
    names = {each: label_of(each, base.has_global).short for each in metrics}
    told = ", ".join(f"{names[each]} {base.estimate(each)}" for each in metrics)
    say_table(
        [
            Column("site", [short_site(row.site) for row in rows], left=True),
            Column("kept", [short_keep(row.keep) for row in rows]),
            Column("rank", [str(row.rank) for row in rows], drop=2),
            *(
                Column(names[each], [change_of(row, each) for row in rows], drop=place)
                for place, each in enumerate(metrics)
            ),
        ],
        title=f"{task}: uncut {told}; {order_told([row.p_in_context_change for row in rows])}",
    )


def order_told(changes: Sequence[float]) -> str:
    """What rows are, of which the one that changes most upwards is the first.

    Examples:
        >>> order_told([0.2, 0.1]), order_told([0.2, -0.1]), order_told([-0.1, -0.2])
        ('largest rises', 'largest rises, then smallest falls', 'no rises, smallest falls')
        >>> order_told([0.0, -0.1]), order_told([0.2, 0.0]), order_told([0.0, 0.0])
        ('no rises, smallest falls', 'largest rises', 'no changes')
    """
    rises, falls = any(each > 0 for each in changes), any(each < 0 for each in changes)
    if rises:
        return "largest rises, then smallest falls" if falls else "largest rises"
    return "no rises, smallest falls" if falls else "no changes"
