"""What all commands share: the app, where they print, and how errors are shown."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from importlib.metadata import version
from typing import Annotated, Any, ParamSpec, TextIO, TypeVar

import typer
from rich.console import Console
from typer.core import TyperGroup

from tl_truncate.cli.shared.interrupts import told
from tl_truncate.cli.shared.quiet import quiet

# Names and prompts are shown as they are: a text such as :key: is no picture of a key.
console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)

#: What a shell has for a command that Ctrl-C has ended, and for one that was typed wrongly.
_INTERRUPTED, _WRONG = 130, 2
#: Of typer, or of click beneath an older one: what was typed is no command, or lacks an option.
_MISTYPED: Any = typer.BadParameter.__mro__[2]
#: Where the result goes while all else goes to stderr.
_RESULT: ContextVar[TextIO | None] = ContextVar("result", default=None)
P = ParamSpec("P")
R = TypeVar("R")


class Commands(TyperGroup):
    """The commands; what was typed wrongly is one line."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Runs a command, and ends the process as it ended."""
        standalone = more.pop("standalone_mode", True)
        more["standalone_mode"] = False
        try:
            code = super().main(*args, **more)
        except (KeyboardInterrupt, typer.Abort):
            code = _INTERRUPTED
        except _MISTYPED as problem:
            if type(problem).__name__ == "NoArgsIsHelpError":
                problem.show()
            else:
                say_error(problem.format_message())
            code = _WRONG
        if not standalone:
            return code
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Low-rank surgery on TransformerLens models while they run.",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tl-truncate {version('tl-truncate')}")
        raise typer.Exit


@app.callback()
def _main(
    show: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which it is.")
    ] = False,
) -> None:
    """Low-rank surgery on TransformerLens models while they run."""


def say(text: str, *, style: str | None = None) -> None:
    """Prints a text: between words in a terminal, as it is in a pipe; brackets are brackets.

    Examples:
        >>> say("[bold]layer[/bold] 3")
        [bold]layer[/bold] 3
    """
    whole = not console.is_terminal
    console.print(text, style=style, markup=False, highlight=not whole, soft_wrap=whole)


def say_error(text: str) -> None:
    """Says in one line what was wrong."""
    errors.print("[bold red]error:[/]", end=" ")
    line = " ".join(part.strip() for part in text.splitlines() if part.strip())
    errors.print(line, markup=False, soft_wrap=True)


def _say_warning(text: str) -> None:
    errors.print(text, markup=False, soft_wrap=True)


def print_result(text: str) -> None:
    """Prints what a program reads, on the stdout that is kept for it."""
    typer.echo(text, file=_RESULT.get() or sys.stdout, nl=not text.endswith("\n"))


@contextlib.contextmanager
def _stdout_is_the_result(wanted: bool) -> Iterator[None]:
    """Sends all that is printed to stderr, but the result."""
    if not wanted:
        yield
        return
    token = _RESULT.set(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _RESULT.reset(token)


def kind(command: Callable[P, R]) -> Callable[P, R]:
    """Shows what was wrong with the user's input as one message, and exits with 2.

    After Ctrl-C the command that goes on with the work is shown, or that nothing was kept. With --json
    or --csv, stdout has the result alone. What libraries say is kept off, unless --verbose.
    """

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        alone = bool(kwargs.get("as_json") or kwargs.get("as_csv"))
        verbose = bool(kwargs.get("verbose"))
        try:
            with _stdout_is_the_result(alone), quiet(_say_warning, verbose=verbose):
                return command(*args, **kwargs)
        except (ValueError, TypeError, OSError, ModuleNotFoundError) as problem:
            say_error(str(problem))
            raise typer.Exit(_WRONG) from problem
        except KeyboardInterrupt as stop:
            errors.print(
                told(stop, sys.argv[1:], can_resume=kwargs.get("resume") is not None),
                markup=False,
                soft_wrap=True,
            )
            raise typer.Exit(_INTERRUPTED) from stop

    return wrapper
