"""Changes in tables: the number with its interval, coloured where it is clear of zero."""

from typing import Any

from rich.text import Text

from tl_truncate.statistics import clear, shown


def change_of(row: Any, metric: str) -> Text:
    """A metric's change in a row of a sweep's table.

    Examples:
        >>> from types import SimpleNamespace as Row
        >>> row = Row(p_global_change=-0.1, p_global_change_low=-0.2, p_global_change_high=-0.05,
        ...           p_global_change_q=0.01)
        >>> change_of(row, "p_global").plain
        '-0.100 [-0.200, -0.050]'
    """
    value, low, high = (getattr(row, f"{metric}_change{end}") for end in ("", "_low", "_high"))
    text = Text(shown(value, low, high, signed=True))
    text.stylize(style_of(value, getattr(row, f"{metric}_change_q")), 0, text.plain.index(" "))
    return text


def style_of(value: float, q: float) -> str:
    """Green for a rise, red for a fall, dim where it is not clear of zero among all of the table.

    Examples:
        >>> style_of(0.1, 0.01), style_of(0.1, 0.2)
        ('bold green', 'dim')
    """
    if not clear(q):
        return "dim"
    return "bold green" if value > 0 else "bold red"
