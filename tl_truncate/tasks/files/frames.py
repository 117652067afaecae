"""Tasks from tables: a DataFrame, a file, or a dataset of Hugging Face's `datasets`."""

import csv
import os
import random
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tl_truncate.checks import natural, positive
from tl_truncate.weights.files import as_path

#: The columns of `Task.to_frame`.
COLUMNS = ("prompt", "in_context", "global_")
# Texts stay what they are: no "NA" is a gap, no "007" a number, no "May 1" a date.
_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": lambda path: _read_csv(path),
    ".tsv": lambda path: _read_tsv(path),
    ".json": lambda path: pd.read_json(path, orient="records", dtype=False, convert_dates=False),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False, convert_dates=False),
    ".parquet": pd.read_parquet,
}


def _read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Without an index: pandas takes the first of too many fields for one, and all others move."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, **options)
        except pd.errors.ParserWarning:
            raise ValueError(
                "rows have more fields than the header, as unquoted commas make them"
            ) from None


def _read_tsv(path: Path) -> pd.DataFrame:
    """In which a quotation mark is a letter: read as CSV, one would swallow the rows up to the next."""
    found = _read_csv(path, sep="\t", quoting=csv.QUOTE_NONE)
    for name in found:
        quoted = found[name].str.fullmatch(r'".*"')
        if bool(quoted.any()):
            raise ValueError(
                f"a field in quotation marks, {found[name][quoted].iloc[0]!r}, can be a text with them "
                "or without; write the file as .csv or .jsonl"
            )
    return found


def columns_of(frame: pd.DataFrame, prompt: str, in_context: str, global_: str | None) -> dict[str, Any]:
    """Prompts and answers of a table.

    Args:
        frame: one row per prompt.
        prompt, in_context: names of columns.
        global_: a column, or with a space in front the answer of all prompts. None is none; so is the
            column that `to_frame` writes where the table has none of that name.

    Raises:
        ValueError: if a column is missing, or there twice.
    """
    names = list(map(str, frame.columns))
    if global_ == COLUMNS[2] and global_ not in names:
        global_ = None
    everywhere = global_ is None or (global_.startswith(" ") and global_ not in names)
    wanted = [prompt, in_context] + ([] if everywhere else [str(global_)])
    missing = [name for name in wanted if name not in names]
    if missing:
        remedy = (
            f" A text for all prompts begins with a space: global_={f' {global_}'!r}."
            if global_ in missing
            else " Name them: prompt=..., in_context=..., global_=... ."
        )
        raise ValueError(
            f"The frame must have the columns {', '.join(wanted)}; {', '.join(missing)} missing among "
            f"{', '.join(names)}.{remedy}"
        )
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise ValueError(f"Each column of the frame must be there once, got {twice[0]!r} twice.")
    return dict(
        prompts=frame[prompt].tolist(),
        in_context=frame[in_context].tolist(),
        global_=global_ if everywhere else frame[global_].tolist(),
    )


def read_rows(source: Any, *, split: str | None, n: int | None, seed: int) -> tuple[str, pd.DataFrame]:
    """A dataset as a table, with a name for it.

    Args:
        source: a `datasets.Dataset`, several by their splits, a file, or a name on the hub.
        split: of several.
        n: so many rows, drawn with the seed; all by default.
        seed: of their choice.

    Raises:
        ValueError: if the split does not fit, or there are fewer rows than asked for.
        FileNotFoundError: if it is a path that does not exist.
    """
    name, found = _open(source, split)
    count = None if n is None else positive("n", n)
    rows = len(found)
    if count is not None and count > rows:
        raise ValueError(f"n must be at most {rows}, the rows of {name}, got {count}.")
    if count is not None:
        places = sorted(random.Random(natural("seed", seed)).sample(range(rows), count))
        found = found.iloc[places] if isinstance(found, pd.DataFrame) else found.select(places)
    return name, found if isinstance(found, pd.DataFrame) else found.to_pandas()


def _open(source: Any, split: str | None) -> tuple[str, Any]:
    if isinstance(source, (str, os.PathLike)):
        path = as_path(source)
        if path.suffix in _READERS:
            return path.stem, _read_file(path, split)
        if path.exists() or str(source).startswith((".", "/", "~")):
            raise FileNotFoundError(
                f"The dataset must be a file that ends in {', '.join(_READERS)}, or a name on the hub, "
                f"got {str(source)!r}."
            )
        return str(source).split("/")[-1], _from_hub(str(source), split)
    if isinstance(source, Mapping):
        return _of_split(source, split)
    if not hasattr(source, "select") or not hasattr(source, "to_pandas"):
        raise TypeError(
            "The dataset must be a datasets.Dataset, a file or a name on the hub, got "
            f"{type(source).__name__}. Of one that is streamed take rows first: "
            "Task.from_frame(pandas.DataFrame(source.take(100)))."
        )
    if split is not None:
        raise ValueError(f"A dataset that is one split must be given without split, got {split!r}.")
    return str(getattr(getattr(source, "info", None), "dataset_name", None) or "dataset"), source


def _read_file(path: Path, split: str | None) -> pd.DataFrame:
    if split is not None:
        raise ValueError(f"A file must be given without split, got {split!r} for {path}.")
    if not path.is_file():
        raise FileNotFoundError(f"The dataset's file must exist, got {path}.")
    try:
        return _READERS[path.suffix](path)
    except ValueError as problem:
        raise ValueError(f"{path} must hold a table of rows, but: {problem}.") from problem


def _from_hub(name: str, split: str | None) -> Any:
    from datasets import load_dataset

    if split is None:
        raise ValueError(
            f"A dataset on the hub must be given with its split, got {name!r} alone. Use "
            "split='validation'."
        )
    return load_dataset(name, split=split)


def _of_split(several: Mapping[str, Any], split: str | None) -> tuple[str, Any]:
    if split not in several:
        raise ValueError(f"split must be one of {', '.join(map(str, several))}, got {split!r}.")
    return f"{split}", several[str(split)]
