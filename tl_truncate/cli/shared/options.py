"""Options that several commands share."""

from typing import Annotated, Any

import typer

from tl_truncate.cli.shared.parse import parse_keep
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.locate import find_sites
from tl_truncate.weights.site import Site, as_matrices

TaskNames = Annotated[
    list[str] | None,
    typer.Option(
        "--task", help="A name such as `ioi`, or a JSON file; may be repeated. By default ioi."
    ),
]
SiteNames = Annotated[
    list[str] | None, typer.Option("--site", help="Such as `blocks.3.mlp.W_in`; may be repeated.")
]
Matrices = Annotated[
    str,
    typer.Option(help="Without --site: which matrices, separated by commas, or `mlp` for all of it."),
]
Layers = Annotated[
    str | None, typer.Option(help="Without --site: layers such as `20-29` or `0,5,-1`; all by default.")
]
Keeps = Annotated[
    list[str] | None, typer.Option("--keep", help="A rank, fraction or rule; may be repeated.")
]
Prompts = Annotated[int | None, typer.Option("--n", help="Prompts (100, or all of a file).")]
Seed = Annotated[int, typer.Option(help="Of prompts, controls and bootstrap.")]
Bos = Annotated[
    bool | None,
    typer.Option("--prepend-bos/--no-prepend-bos", help="By default as the model has it."),
]
BatchSize = Annotated[int, typer.Option(help="Most prompts in a batch.")]
MaxMemory = Annotated[float | None, typer.Option(help="Most gigabytes beside the model.")]


def check_matrices(matrices: str) -> tuple[str, ...]:
    """The matrices of an option, checked before a model is loaded.

    Examples:
        >>> check_matrices("mlp")
        ('W_in', 'W_gate', 'W_out')
    """
    if matrices == "mlp":
        return ("W_in", "W_gate", "W_out")
    return as_matrices(matrices.split(","))


def read_keeps(keeps: list[str] | None, default: tuple[float, ...]) -> list[Keep]:
    """Keep rules from their texts."""
    return [parse_keep(text) for text in keeps or [repr(keep) for keep in default]]


def read_layers(layers: str | None) -> list[int] | None:
    """Layers from `20-29` or `0,5,-1`.

    Raises:
        ValueError: if the text is of neither form.

    Examples:
        >>> read_layers("20-22,-1")
        [20, 21, 22, -1]
    """
    if layers is None:
        return None
    found: list[int] = []
    for part in layers.split(","):
        first, separator, last = part[1:].partition("-")
        try:
            start = int(part[0] + first)
            found += range(start, int(last) + 1) if separator else [start]
        except (ValueError, IndexError):
            raise ValueError(f"--layers must read like 20-29 or 0,5,-1, got {layers!r}.") from None
    return found


def read_sites(
    model: Any, sites: list[str] | None, matrices: tuple[str, ...], layers: list[int] | None
) -> list[Site]:
    """The sites that the options name."""
    if sites:
        return [Site.parse(site) for site in sites]
    return find_sites(model, matrices, layers)


def in_bytes(gigabytes: float | None) -> int | None:
    """Bytes of an amount in gigabytes."""
    return None if gigabytes is None else int(gigabytes * 2**30)
