"""Changes in tables: the number with its interval, coloured where zero is left out."""

from typing import Any

from rich.text import Text

from tl_truncate.statistics import shown


def change_of(row: Any, metric: str) -> Text:
    """A metric's change in a row of a sweep's table.

    Examples:
        >>> from types import SimpleNamespace as Row
        >>> row = Row(p_global_change=-0.1, p_global_change_low=-0.2, p_global_change_high=-0.05)
        >>> change_of(row, "p_global").plain
        '-0.100 [-0.200, -0.050]'
    """
    value, low, high = (getattr(row, f"{metric}_change{end}") for end in ("", "_low", "_high"))
    text = Text(shown(value, low, high, signed=True))
    text.stylize(style_of(low, high), 0, text.plain.index(" "))
    return text


def style_of(low: float, high: float) -> str:
    """Green for a rise, red for a fall, dim where the interval has zero in it.

    Examples:
        >>> style_of(0.1, 0.2), style_of(-0.1, 0.2)
        ('bold green', 'dim')
    """
    return "bold green" if low > 0 else "bold red" if high < 0 else "dim"
