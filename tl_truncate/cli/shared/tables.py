"""Tables that fit: columns are left out or rows folded before a name or a number would be cut off."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tl_truncate.cli.shared.app import console, say


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: its heading.
        cells: from the first row to the last.
        left: whether it is of names, which begin at one edge; numbers end at one.
        drop: where there is no room, columns go from the highest number down; those of 0 stay.
    """

    name: str
    cells: Sequence[str | Text]
    left: bool = False
    drop: int = 0


def say_table(columns: Sequence[Column], *, title: str | None = None) -> None:
    """Prints a table: in a terminal in its width, in a pipe whole.

    Args:
        columns: the first one names the rows.
        title: a line above it.
    """
    if title is not None:
        say(title, style="bold")
    if not console.is_terminal:
        table = _table(columns)
        wide = Console(file=console.file, width=max(_width(table), 80), emoji=False)
        wide.print(table)
        return
    shown = fitting(columns, console.width)
    if shown is None:
        _say_folded(columns)
        return
    console.print(_table(shown))
    left_out = [column.name for column in columns if column not in shown]
    if left_out:
        names = ", ".join(" ".join(name.split()) for name in left_out)
        say(f"No room for: {names}. --csv has all.", style="dim")


def fitting(columns: Sequence[Column], width: int) -> list[Column] | None:
    """The columns that have room, or None if even those that stay have none.

    Examples:
        >>> columns = [Column("site", ["27 W_out"], left=True), Column("rank", ["512"], drop=1)]
        >>> [column.name for column in fitting(columns, 20)], [c.name for c in fitting(columns, 12)]
        (['site', 'rank'], ['site'])
        >>> fitting(columns, 6) is None
        True
    """
    shown = list(columns)
    while _width(_table(shown)) > width:
        last = max(shown, key=lambda column: column.drop)
        if last.drop == 0:
            return None
        shown.remove(last)
    return shown


def _table(columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(
            Text(column.name), justify="left" if column.left else "right", no_wrap=True, overflow="fold"
        )
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    return table


def _width(table: Table) -> int:
    """Of the table with no cell cut off."""
    wide = Console(width=100_000)
    return wide.measure(table).maximum


def _say_folded(columns: Sequence[Column]) -> None:
    """Each row as a paragraph: its name, and a line for each of its cells."""
    first, *others = columns
    for place, name in enumerate(first.cells):
        say(name.plain if isinstance(name, Text) else name, style="bold")
        for column in others:
            heading = " ".join(column.name.split())
            line = Text.assemble(f"  {heading}: ", column.cells[place])
            console.print(line, overflow="fold")
