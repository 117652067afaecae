"""`tl-truncate plot`: pictures of a sweep."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tl_truncate.checks import one_of, require_extra
from tl_truncate.cli.shared.app import app, console, kind
from tl_truncate.cli.shared.options import PATH, SiteNames
from tl_truncate.experiments.sweep.result import SweepResult


@app.command("plot")
@kind
def plot_command(
    run: Annotated[Path, typer.Argument(help="A run folder, or the folder that --out named.", **PATH)],
    out: Annotated[Path, typer.Option(help="A .png or .svg file.", **PATH)],
    figure: Annotated[str, typer.Option(help="`heatmap`, `ranks` or `shots`.")] = "heatmap",
    task: Annotated[str | None, typer.Option(help="If the sweep has several.")] = None,
    site: SiteNames = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="By default as the figure has it; may be repeated.")
    ] = None,
) -> None:
    """Draws a figure from a run folder, also from one that is not finished.

    Example: `tl-truncate plot runs/ioi --figure ranks --out ranks.svg`
    """
    require_extra("plots")
    from tl_truncate.plots import heatmap, ranks, save, shots

    one_of("--figure", figure, ("heatmap", "ranks", "shots"))
    if figure == "shots" and (task or site):
        raise ValueError("--figure shots must be without --task and --site: it shows all tasks.")
    result = SweepResult.load(run / "run" if (run / "run").is_dir() else run)
    options: dict[str, Any] = dict(metrics=metric) if metric else {}
    if figure == "shots":
        drawn = shots(result, **options)
    elif figure == "ranks":
        drawn = ranks(result, site, task=task, **options)
    else:
        drawn = heatmap(result, task=task, **options)
    save(drawn, out)
    console.print(f"Written: {out}", markup=False, soft_wrap=True)
