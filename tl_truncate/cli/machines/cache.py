"""`tl-truncate cache`: the spectra stored on disk."""

from dataclasses import asdict

import pandas as pd
import typer

from tl_truncate.cli.shared.app import app, kind, say
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.weights.spectra.cache import cache_clear, cache_info

cache_app = typer.Typer(no_args_is_help=True, help="The spectra stored on disk.")
app.add_typer(cache_app, name="cache")


@cache_app.command("info")
@kind
@grouped
def cache_info_command(*, printed: PrintOptions) -> None:
    """Says where the stored spectra are and how much room they take.

    Example: `tl-truncate cache info`
    """
    found = cache_info()
    folder = None if found.folder is None else str(found.folder)
    data = asdict(found) | dict(folder=folder)
    if not printed.print(data, pd.DataFrame([data])):
        say(str(found))


@cache_app.command("clear")
@kind
def cache_clear_command() -> None:
    """Deletes the stored spectra.

    Example: `tl-truncate cache clear`
    """
    say(f"deleted {cache_clear()}")
