"""What a command found, for a program to read: JSON or CSV instead of a table."""

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any

import pandas as pd
import typer

from tl_truncate.cli.shared.app import print_result

AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON instead of a table, and nothing else on stdout.")
]
AsCsv = Annotated[
    bool, typer.Option("--csv", help="Print CSV instead of a table, and nothing else on stdout.")
]


@dataclass(frozen=True, kw_only=True)
class PrintOptions:
    """Whether a program reads what is printed."""

    as_json: AsJson = False
    as_csv: AsCsv = False

    def __post_init__(self) -> None:
        if self.as_json and self.as_csv:
            raise ValueError("Give either --json or --csv, got both.")

    @property
    def for_people(self) -> bool:
        """Whether a person reads."""
        return not (self.as_json or self.as_csv)

    def print(self, data: Any, table: pd.DataFrame) -> bool:
        """Prints the data or the table in full precision, if a program reads; whether it did.

        Args:
            data: plain data, for JSON.
            table: for CSV.
        """
        if self.as_json:
            print_result(as_json(data))
        if self.as_csv:
            print_result(table.to_csv(index=False))
        return not self.for_people


def as_json(data: Any) -> str:
    """JSON that every reader takes: what is missing or not finite is null.

    Examples:
        >>> print(as_json({"low": float("nan"), "n": 3, "path": [1.5]}))
        {
          "low": null,
          "n": 3,
          "path": [
            1.5
          ]
        }
    """
    return json.dumps(finite(data), indent=2, allow_nan=False)


def finite(data: Any) -> Any:
    """Plain data without what JSON has no word for."""
    if isinstance(data, dict):
        return {name: finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    plain = data.item() if hasattr(data, "item") else data
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
