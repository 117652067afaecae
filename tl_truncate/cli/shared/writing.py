"""What commands leave behind: tables, a record, pictures, each whole or not there."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tl_truncate.checks import require_extra
from tl_truncate.cli.shared.app import console, say
from tl_truncate.cli.shared.printing import finite
from tl_truncate.runs.files import write_json, write_table
from tl_truncate.runs.saved import Saved
from tl_truncate.runs.shards import Shard


def check_figures(wanted: bool, *extras: str) -> None:
    """Asks for the packages that draw, before any work.

    Raises:
        ModuleNotFoundError: if one is missing, with both ways out.
    """
    for extra in extras if wanted else ():
        require_extra(extra, otherwise="Or go without pictures: --no-figures.")


def check_new(out: Path | None, resume: bool) -> None:
    """That a folder is one to begin in, unless a run is gone on with.

    Raises:
        ValueError: if it has content.
    """
    if out is not None and not resume and out.exists() and any(out.iterdir()):
        raise ValueError(f"--out must be new or empty without --resume, got {out}.")


def write_tables(
    out: Path, tables: Mapping[str, pd.DataFrame], record: Any = None, result: Saved | None = None
) -> list[str]:
    """Writes tables, a record and a result into a folder, which is made if need be.

    Args:
        out: the folder.
        tables: by their files' names, without the ending; written as CSV.
        record: plain data, for record.json.
        result: from which a report can be made.

    Returns:
        The files' names.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_table(out / f"{name}.csv", table)
    names = [f"{name}.csv" for name in tables]
    if record is not None:
        write_json(out / "record.json", finite(record))
        names.append("record.json")
    return names if result is None else [*names, result.save_into(out).name]


def say_shard(shard: Shard, out: Path | None, told: str) -> None:
    """Says what one share has; its tables are no files, since they are not the run's."""
    say(f"shard {shard}: {told}")
    console.print(f"Once all shards are finished: tl-truncate merge {out}", markup=False, soft_wrap=True)


def say_written(out: Path, names: Iterable[str]) -> None:
    """Says what was written."""
    console.print(f"Written: {out}/{', '.join(names)}", markup=False, soft_wrap=True)
