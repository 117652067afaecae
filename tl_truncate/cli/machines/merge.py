"""`tl-truncate merge`: the shards of a run, made one run again."""

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from tl_truncate.cli.dynamics import say_dynamics
from tl_truncate.cli.shared.app import app, kind, say
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.options import PATH, Figures
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.cli.shared.writing import check_figures
from tl_truncate.cli.sweep import say_sweep
from tl_truncate.experiments.merge import merge
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.experiments.training.result import Dynamics
from tl_truncate.runs.files import rows_of


@app.command("merge")
@kind
@grouped
def merge_command(
    run: Annotated[
        Path, typer.Argument(help="The run folder of all shards, or what --out named.", **PATH)
    ],
    figures: Figures = True,
    *,
    printed: PrintOptions,
) -> None:
    """Joins the shards of a run, once all are finished; it is an ordinary run folder then.

    Example: `tl-truncate merge runs/ioi`

    A shard that is missing or unfinished is named, with how to run it.
    """
    check_figures(figures, "plots")
    result = merge(run)
    out = run if (run / "run").is_dir() else None
    if isinstance(result, SweepResult):
        say_sweep(result, out, figures=figures, printed=printed)
        return
    if isinstance(result, Dynamics):
        say_dynamics(result, out, figures=figures, printed=printed)
        return
    if isinstance(result, SearchResult):
        result.cuts.save(run / "cuts.json")
    if not printed.print(_plain(result), _frame(result)):
        say(str(result))


def _plain(result: Any) -> Any:
    """What a result has as JSON; where it has none of its own, its table's rows."""
    return result.to_json() if hasattr(result, "to_json") else rows_of(_frame(result))


def _frame(result: Any) -> pd.DataFrame:
    """The table of a result; of token means, which have none, what they are of."""
    if isinstance(result, SearchResult):
        return result.summary().reset_index()
    if hasattr(result, "frame"):
        return result.frame  # type: ignore[no-any-return]
    return pd.DataFrame([dict(result=str(result))])
