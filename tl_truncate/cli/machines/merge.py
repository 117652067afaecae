"""`tl-truncate merge`: the shards of a run, made one run again."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tl_truncate.cli.dynamics import say_dynamics
from tl_truncate.cli.shared.app import app, console, kind
from tl_truncate.cli.shared.options import PATH, AsJson, Figures
from tl_truncate.cli.shared.writing import check_figures
from tl_truncate.cli.sweep import say_sweep
from tl_truncate.experiments.merge import merge
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.experiments.training.result import Dynamics


@app.command("merge")
@kind
def merge_command(
    run: Annotated[
        Path, typer.Argument(help="The run folder of all shards, or what --out named.", **PATH)
    ],
    figures: Figures = True,
    as_json: AsJson = False,
) -> None:
    """Joins the shards of a run, once all are finished; it is an ordinary run folder then.

    Example: `tl-truncate merge runs/ioi`

    A shard that is missing or unfinished is named, with how to run it.
    """
    check_figures(figures, "plots")
    result = merge(run)
    out = run if (run / "run").is_dir() else None
    if isinstance(result, SweepResult):
        say_sweep(result, out, figures=figures, as_json=as_json)
        return
    if isinstance(result, Dynamics):
        say_dynamics(result, out, figures=figures, as_json=as_json)
        return
    if isinstance(result, SearchResult):
        result.cuts.save(run / "cuts.json")
    if as_json and hasattr(result, "to_json"):
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        console.print(str(result), markup=False, soft_wrap=True)
