"""What all commands share: the app, its common options, and how errors are shown."""

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console

from tl_truncate.models import load_model

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Low-rank surgery on TransformerLens models while they run.",
)
console = Console()
errors = Console(stderr=True)

P = ParamSpec("P")
R = TypeVar("R")

ModelName = Annotated[
    str, typer.Option("--model", "-m", help="`demo`, a hub name, `pythia-160m`, or a folder.")
]
BackendName = Annotated[str, typer.Option(help="`bridge`, or `hooked` on TransformerLens 3.")]
Checkpoint = Annotated[int | None, typer.Option(help="Training step of a Pythia model.")]
Dtype = Annotated[str, typer.Option(help="Of the weights, such as float32 or bfloat16.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def kind(command: Callable[P, R]) -> Callable[P, R]:
    """Shows what was wrong with the user's input as one message, and exits with 2."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, OSError, ModuleNotFoundError) as problem:
            errors.print(f"[bold red]error:[/] {escape(str(problem))}", soft_wrap=True)
            raise typer.Exit(2) from problem

    return wrapper


def load(name: str, **options: Any) -> Any:
    """Loads a model with what the libraries print sent to stderr, so that stdout is the result."""
    with contextlib.redirect_stdout(sys.stderr):
        return load_model(name, **options)


def escape(text: str) -> str:
    """Text as rich shows it literally, brackets included."""
    return text.replace("[", r"\[")
