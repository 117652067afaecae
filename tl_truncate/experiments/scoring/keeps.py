"""How much was kept, in tables and in words: a share is a float, a rank an int, and they stay apart."""

from collections.abc import Iterable

import pandas as pd


def keep_column(labels: Iterable[float | int | str]) -> pd.Series:
    """A column of what was kept, in which ranks beside shares stay whole numbers.

    Examples:
        >>> keep_column([8, 0.5]).tolist(), keep_column([0.1, 0.5]).dtype
        ([8, 0.5], dtype('float64'))
    """
    values = list(labels)
    mixed = len({type(value) for value in values}) > 1
    return pd.Series(values, dtype=object if mixed else None)


def kept_text(keep: object) -> str:
    """What is kept, as a table shows it: 10%, 8, or a rule's text.

    Examples:
        >>> kept_text(0.1), kept_text(8)
        ('10%', '8')
    """
    return f"{100 * keep:g}%" if isinstance(keep, float) else str(keep)
