"""`tl-truncate cache`: the spectra stored on disk."""

import typer

from tl_truncate.cli.shared.app import app, kind
from tl_truncate.weights.spectra.cache import cache_clear, cache_info

cache_app = typer.Typer(no_args_is_help=True, help="The spectra stored on disk.")
app.add_typer(cache_app, name="cache")


@cache_app.command("info")
@kind
def cache_info_command() -> None:
    """Says where the stored spectra are and how much room they take.

    Example: `tl-truncate cache info`
    """
    typer.echo(str(cache_info()))


@cache_app.command("clear")
@kind
def cache_clear_command() -> None:
    """Deletes the stored spectra.

    Example: `tl-truncate cache clear`
    """
    typer.echo(f"deleted {cache_clear()}")
