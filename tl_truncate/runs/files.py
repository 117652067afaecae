"""JSON and tables on disk: whole or not there, and with a word about what is wrong with them."""

import json
import os
from typing import Any

import pandas as pd

from tl_truncate.weights.files import as_path, replacing


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Writes plain data as JSON."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(data, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())  # before the name is taken, so that no crash leaves an empty file


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: if the file is damaged, or holds something else.
    """
    try:
        data = json.loads(as_path(path).read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{path} must be JSON, but it is damaged: {problem}.") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold an object, got {type(data).__name__}.")
    return data


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows as JSON has them: what is missing, such as an interval of few prompts, is null.

    Examples:
        >>> rows_of(pd.DataFrame({"kl": [0.5], "kl_low": [float("nan")]}))
        [{'kl': 0.5, 'kl_low': None}]
    """
    found: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return found


def write_table(path: str | os.PathLike[str], frame: pd.DataFrame, *, index: bool = False) -> None:
    """Writes a table as CSV."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=index)
