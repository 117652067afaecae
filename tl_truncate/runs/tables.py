"""Tables of results: made once, and read by anyone, who may write into theirs."""

from collections.abc import Callable
from typing import Any

import pandas as pd


class own_table:
    """A property that is a table: made at the first reading, a copy at each.

    What a reader adds or scales for themselves must change no estimate or report that comes later.

    Examples:
        >>> import pandas as pd
        >>> class Result:
        ...     @own_table
        ...     def frame(self):
        ...         return pd.DataFrame({"p": [0.5]})
        >>> result = Result()
        >>> mine = result.frame
        >>> mine["p"] *= 100
        >>> result.frame["p"].tolist()
        [0.5]
    """

    def __init__(self, make: Callable[[Any], pd.DataFrame]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._kept = f"_{name}_made"

    def __get__(self, result: Any, owner: type | None = None) -> Any:
        """The reader's own copy; of the class the property itself."""
        if result is None:
            return self
        if self._kept not in result.__dict__:
            result.__dict__[self._kept] = self._make(result)
        return result.__dict__[self._kept].copy()
