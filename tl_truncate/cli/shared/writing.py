"""What commands leave behind: tables, a record, pictures, each whole or not there."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tl_truncate.checks import require_extra
from tl_truncate.cli.shared.app import console
from tl_truncate.weights.files import replacing


def check_figures(wanted: bool, *extras: str) -> None:
    """Asks for the packages that draw, before any work.

    Raises:
        ModuleNotFoundError: if one is missing, with both ways out.
    """
    for extra in extras if wanted else ():
        require_extra(extra, otherwise="Or go without pictures: --no-figures.")


def write_tables(out: Path, tables: Mapping[str, pd.DataFrame], record: Any = None) -> list[str]:
    """Writes tables as CSV, and a record as record.json, into a folder that is made if need be.

    Args:
        out: the folder.
        tables: by their files' names, without the ending.
        record: plain data.

    Returns:
        The files' names.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        with replacing(out / f"{name}.csv") as path:
            table.to_csv(path, index=False)
    names = [f"{name}.csv" for name in tables]
    if record is None:
        return names
    with replacing(out / "record.json") as path:
        path.write_text(json.dumps(record, indent=2) + "\n")
    return [*names, "record.json"]


def say_written(out: Path, names: Iterable[str]) -> None:
    """Says what was written."""
    console.print(f"Written: {out}/{', '.join(names)}", markup=False, soft_wrap=True)
