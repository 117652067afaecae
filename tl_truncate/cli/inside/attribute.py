"""`tl-truncate attribute`: what every cut is worth, to first order."""

import json
from typing import Annotated, Any, cast

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from tl_truncate.cli.shared.app import app, console, kind
from tl_truncate.cli.shared.grid import GridOptions
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import ModelOptions, PassOptions
from tl_truncate.cli.shared.options import AsJson, Figures, Out, ShardText, TaskName
from tl_truncate.cli.shared.tasks import PromptOptions, check_task_name
from tl_truncate.cli.shared.writing import check_figures, say_shard, say_written, write_tables
from tl_truncate.experiments.scoring.differentiable import Differentiable
from tl_truncate.experiments.screening.attribute import attribute
from tl_truncate.experiments.screening.attribution import Attribution
from tl_truncate.runs.files import rows_of
from tl_truncate.runs.shards import as_pair, as_shard
from tl_truncate.weights.keep.defaults import GENTLE


@app.command("attribute")
@kind
@grouped
def attribute_command(
    *,
    source: ModelOptions,
    task: TaskName = "ioi",
    cutting: GridOptions,
    metric: Annotated[
        str | None,
        typer.Option(
            help="logit_diff (without global answers p_in_context), p_in_context or p_global.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Rows to show.")] = 10,
    out: Out = None,
    shard: ShardText = None,
    figures: Figures = True,
    prompts: PromptOptions,
    passes: PassOptions,
    as_json: AsJson = False,
) -> None:
    """Predicts the effect of every cut, to first order, from one pass there and back.

    Example: `tl-truncate attribute --model demo --task ioi --keep 0.9 --keep 0.95 --out screens/ioi`
    """
    part = as_shard(shard)
    figures = figures and out is not None and part is None
    check_figures(figures, "plots")
    check_task_name(task)
    grid = cutting.read(GENTLE)
    model = source.load()
    screen = attribute(
        model,
        prompts.make(task, model),
        sites=grid.sites(model),
        metric=cast(Differentiable | None, metric),
        run_dir=None if part is None or out is None else out / "run",
        shard=as_pair(part),
        prepend_bos=prompts.prepend_bos,
        seed=prompts.seed,
        **passes.to_arguments(),
    )
    if part is not None:
        say_shard(part, out, f"{len(screen.by_row)} sites")
        return
    predicted = screen.predict(list(grid.keeps))
    record = screen.record.to_json()
    written: list[str] = []
    if out is not None:
        tables = dict(components=screen.frame, predicted=predicted)
        written = write_tables(out, tables, record)
    if figures and out is not None:
        from tl_truncate.plots import attribution, save

        save(attribution(screen), out / "attribution.png")
        written.append("attribution.png")
    if as_json:
        data: dict[str, Any] = dict(record=record, metric=metric)
        data["predicted"] = rows_of(predicted)
        typer.echo(json.dumps(data, indent=2))
        return
    console.print(_table(screen, predicted.head(top)))
    console.print("A small prediction is no promise: confirm with `tl-truncate sweep`.")
    if out is not None:
        say_written(out, written)


def _table(screen: Attribution, rows: Any) -> Table:
    title = f"{screen.record.task}: predicted change of {screen.metric}, a first-order estimate"
    table = Table(title=escape(title), box=box.SIMPLE_HEAD)
    for column in ("site", "keep", "rank", "predicted change"):
        table.add_column(column, justify="left" if column == "site" else "right", no_wrap=True)
    for row in rows.itertuples():
        table.add_row(row.site, str(row.keep), str(row.rank), f"{row.predicted_change:+.3f}")
    return table
