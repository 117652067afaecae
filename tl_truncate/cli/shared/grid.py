"""Sites and keeps as the options name them."""

from dataclasses import dataclass
from typing import Any

from tl_truncate.cli.shared.options import Keeps, Layers, Matrices, SiteNames
from tl_truncate.cli.shared.parse import parse_keep
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.locate import find_sites
from tl_truncate.weights.site import Site, as_matrices


@dataclass(frozen=True)
class Grid:
    """What is cut, read and checked as far as it can be without a model."""

    named: list[Site]
    matrices: tuple[str, ...]
    layers: list[int] | None
    keeps: list[Keep]

    def sites(self, model: Any) -> list[Site]:
        """The sites in a model."""
        return self.named or find_sites(model, self.matrices, self.layers)


@dataclass(frozen=True, kw_only=True)
class SiteOptions:
    """Sites."""

    site: SiteNames = None
    matrices: Matrices = "mlp"
    layers: Layers = None

    def grid(self, rules: list[Keep]) -> Grid:
        """The sites, each with every rule.

        Raises:
            ValueError: if an option reads otherwise.
        """
        named = [Site.parse(site) for site in self.site or []]
        return Grid(named, check_matrices(self.matrices), read_layers(self.layers), rules)


@dataclass(frozen=True, kw_only=True)
class GridOptions(SiteOptions):
    """Sites, each with every keep."""

    keep: Keeps = None

    def read(self, keeps: tuple[float, ...]) -> Grid:
        """The grid; the keeps are those without --keep.

        Raises:
            ValueError: if an option reads otherwise.
        """
        return self.grid([parse_keep(text) for text in self.keep or map(repr, keeps)])


def check_matrices(matrices: str) -> tuple[str, ...]:
    """The matrices of an option, checked before a model is loaded.

    Examples:
        >>> check_matrices("mlp")
        ('W_in', 'W_gate', 'W_out')
    """
    if matrices == "mlp":
        return ("W_in", "W_gate", "W_out")
    return as_matrices(matrices.split(","))


def read_layers(layers: str | None) -> list[int] | None:
    """Layers from `20-29` or `0,5,-1`.

    Raises:
        ValueError: if the text is of neither form, or a range goes down.

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
            end = int(last) if separator else start
        except (ValueError, IndexError):
            raise ValueError(f"--layers must read like 20-29 or 0,5,-1, got {layers!r}.") from None
        if end < start:
            raise ValueError(
                f"A range of --layers must go up, from the lower layer to the higher, got {part!r}."
            )
        found += range(start, end + 1)
    return found
