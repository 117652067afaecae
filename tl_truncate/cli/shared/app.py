"""What all commands share: the app, where they print, and how errors are shown."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console

from tl_truncate.cli.shared.interrupts import told

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    help="Low-rank surgery on TransformerLens models while they run.",
)
# Names and prompts are shown as they are: a text such as :key: is no picture of a key.
console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)

#: What a shell has for a command that Ctrl-C has ended.
_INTERRUPTED = 130
P = ParamSpec("P")
R = TypeVar("R")


def kind(command: Callable[P, R]) -> Callable[P, R]:
    """Shows what was wrong with the user's input as one message, and exits with 2.

    After Ctrl-C in work that is kept, the command that goes on with it is shown.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, OSError, ModuleNotFoundError) as problem:
            errors.print("[bold red]error:[/]", end=" ")
            errors.print(str(problem), markup=False, soft_wrap=True)
            raise typer.Exit(2) from problem
        except KeyboardInterrupt as stop:
            message = told(stop, sys.argv[1:])
            if message is None:
                raise
            errors.print(message, markup=False, soft_wrap=True)
            raise typer.Exit(_INTERRUPTED) from stop

    return wrapper
