"""`tl-truncate report`: one HTML page from a run folder."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from tl_truncate.cli.shared.app import app, console, kind
from tl_truncate.cli.shared.options import PATH
from tl_truncate.report import write_report


@app.command("report")
@kind
def report_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="A run folder, the folder that --out named, or a saved result; two runs on one task, "
            "or several of compare_chosen, have a page together.",
            **PATH,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file; report.html in or beside it by default.", **PATH)
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Writes one self-contained HTML page about a run or a result.

    Example: `tl-truncate report runs/ioi --open`; of two models
    `tl-truncate report runs/small runs/large --out both.html`
    """
    first = runs[0]
    folder = first if first.is_dir() else first.parent
    place = folder / "report.html" if out is None else out
    path = write_report(first if len(runs) == 1 else runs, place)
    console.print(f"Written: {path}", markup=False, soft_wrap=True)
    if show:
        webbrowser.open(path.resolve().as_uri())
