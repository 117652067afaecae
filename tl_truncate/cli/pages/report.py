"""`tl-truncate report`: one HTML page from a run folder."""

import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tl_truncate.cli.shared.app import app, console, kind
from tl_truncate.cli.shared.options import PATH
from tl_truncate.report import write_report

#: Runs whose names are in the default name of a page of several.
_NAMED = 3


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
        Path | None,
        typer.Option(
            help="The file. By default report.html in the run's folder or beside the file; of several "
            "runs report-A-B.html, by their names, in the current folder.",
            **PATH,
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Writes one self-contained HTML page about a run or a result.

    Example: `tl-truncate report runs/ioi --open`; of two models
    `tl-truncate report runs/small runs/large --out both.html`
    """
    place = default_place(runs) if out is None else out
    path = write_report(runs[0] if len(runs) == 1 else runs, place)
    console.print(f"Written: {path}", markup=False, soft_wrap=True)
    if show:
        webbrowser.open(path.resolve().as_uri())


def default_place(runs: Sequence[Path]) -> Path:
    """Where a page goes: with its one run; of several, where it replaces the page of none of them.

    Examples:
        >>> default_place([Path("runs/pythia-1.4b"), Path("other/run"), Path("facts.json")]).name
        'report-pythia-1.4b-other-facts.html'
    """
    first = runs[0]
    if len(runs) == 1:
        return (first if first.is_dir() else first.parent) / "report.html"
    names = [_name(run) for run in runs]
    few = names if len(names) <= _NAMED else [*names[:_NAMED], "and", str(len(names) - _NAMED), "more"]
    return Path(f"report-{'-'.join(few)}.html")


def _name(run: Path) -> str:
    """What a run is called; `run` and `result` in its folder say nothing."""
    path = run.resolve()
    name = path.stem if path.suffix in (".json", ".safetensors") else path.name
    return _name(path.parent) if name in ("run", "result") else name
