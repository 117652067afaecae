"""`tl-truncate attribute`: what every cut is worth, to first order."""

from typing import Annotated, Any, cast, get_args

import pandas as pd
import typer

from tl_truncate.checks import one_of, positive
from tl_truncate.cli.shared.app import app, kind, say
from tl_truncate.cli.shared.grid import GridOptions
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import ModelOptions, PassOptions
from tl_truncate.cli.shared.options import Figures, Out, ShardText, TaskName
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.cli.shared.tables import Column, say_table
from tl_truncate.cli.shared.tasks import PromptOptions, check_task_name
from tl_truncate.cli.shared.writing import check_figures, say_shard, say_written, write_tables
from tl_truncate.experiments.scoring.differentiable import Differentiable
from tl_truncate.experiments.screening.attribute import attribute
from tl_truncate.experiments.screening.attribution import Attribution
from tl_truncate.runs.files import rows_of
from tl_truncate.runs.shards import as_pair, as_shard
from tl_truncate.weights.keep.defaults import GENTLE
from tl_truncate.weights.spoken import short_keep, short_site


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
    printed: PrintOptions,
) -> None:
    """Predicts the effect of every cut, to first order, from one pass there and back.

    Example: `tl-truncate attribute --model demo --task ioi --keep 0.9 --keep 0.95 --out screens/ioi`
    """
    part = as_shard(shard)
    figures = figures and out is not None and part is None
    check_figures(figures, "plots")
    check_task_name(task)
    if metric is not None:
        one_of("--metric", metric, get_args(Differentiable))
    positive("--top", top)
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
        sites = len(screen.by_row)
        if not printed.print(dict(shard=str(part), sites=sites), pd.DataFrame([dict(sites=sites)])):
            say_shard(part, out, f"{sites} sites")
        return
    predicted = screen.predict(list(grid.keeps))
    record = screen.record.to_json()
    written: list[str] = []
    if out is not None:
        tables = dict(components=screen.frame, predicted=predicted)
        written = write_tables(out, tables, record, screen)
    if figures and out is not None:
        from tl_truncate.plots import attribution, save

        save(attribution(screen), out / "attribution.png")
        written.append("attribution.png")
    data: dict[str, Any] = dict(record=record, metric=screen.metric, predicted=rows_of(predicted))
    if printed.print(data, predicted):
        return
    _say_predicted(screen, predicted.head(top))
    say("A small prediction is no promise: confirm with `tl-truncate sweep`.")
    if out is not None:
        say_written(out, written)


def _say_predicted(screen: Attribution, table: pd.DataFrame) -> None:
    rows = list(table.itertuples())
    say_table(
        [
            Column("site", [short_site(row.site) for row in rows], left=True),
            Column("kept", [short_keep(row.keep) for row in rows]),
            Column("rank", [str(row.rank) for row in rows], drop=1),
            Column("predicted change", [f"{row.predicted_change:+.3f}" for row in rows]),
        ],
        title=f"{screen.record.task}: predicted change of {screen.metric}, a first-order estimate",
    )
