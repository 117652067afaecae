"""What all commands share: the app, where they print, and how errors are shown."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Low-rank surgery on TransformerLens models while they run.",
)
# Names and prompts are shown as they are: a text such as :key: is no picture of a key.
console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)

P = ParamSpec("P")
R = TypeVar("R")


def kind(command: Callable[P, R]) -> Callable[P, R]:
    """Shows what was wrong with the user's input as one message, and exits with 2."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, OSError, ModuleNotFoundError) as problem:
            errors.print("[bold red]error:[/]", end=" ")
            errors.print(str(problem), markup=False, soft_wrap=True)
            raise typer.Exit(2) from problem

    return wrapper
