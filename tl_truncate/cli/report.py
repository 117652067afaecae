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
    run: Annotated[
        Path,
        typer.Argument(help="A run folder, the folder that --out named, or a saved result.", **PATH),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file; report.html in or beside it by default.", **PATH)
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Writes one self-contained HTML page about a run or a result.

    Example: `tl-truncate report runs/ioi --open`
    """
    folder = run if run.is_dir() else run.parent
    path = write_report(run, folder / "report.html" if out is None else out)
    console.print(f"Written: {path}", markup=False, soft_wrap=True)
    if show:
        webbrowser.open(path.resolve().as_uri())
