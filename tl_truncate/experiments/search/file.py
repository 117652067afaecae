"""A search on disk: `search.json`, from which the result comes back prompt by prompt."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.experiments.scoring.side_effects import SideEffects
from tl_truncate.experiments.search.result import SearchResult
from tl_truncate.runs.record import Record
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.weights.files import replacing

FILE = "search.json"


def write_search(result: SearchResult, folder: str | os.PathLike[str]) -> None:
    """Writes the result, with every prompt's scores, into a folder."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    splits = {"validation": result.validation, "test": result.test}
    data = result.to_json()
    data["scores"] = {
        name: {task: [_plain(scores), _plain(scores.baseline)] for task, scores in by_task.items()}
        for name, by_task in splits.items()
    }
    data["control_scores"] = {
        kind: {task: _plain(scores) for task, scores in by_task.items()}
        for kind, by_task in result.controls.items()
    }
    data["passages"] = None if result.cost is None else result.cost.frame.to_dict(orient="list")
    with replacing(place / FILE) as path:
        path.write_text(json.dumps(data, indent=1) + "\n")


def read_search(folder: str | os.PathLike[str]) -> SearchResult:
    """Reads what `write_search` wrote, to the last bit.

    Raises:
        ValueError: if the folder holds no finished search, or one without its prompts' scores.
    """
    path = Path(folder) / FILE
    if not path.exists():
        raise ValueError(
            f"The folder must hold a finished search's {FILE}, got {folder} without one. The same "
            "search with the same folder goes on where it stopped."
        )
    try:
        data = json.loads(path.read_text())
    except ValueError as problem:
        raise ValueError(f"{path} must be JSON, but it is damaged: {problem}.") from None
    if "scores" not in data:
        raise ValueError(
            f"{path} must hold the scores of every prompt, but an earlier version wrote it without. The "
            "same search with the same folder writes it anew."
        )
    splits = {
        name: {task: _scores(*pair) for task, pair in by_task.items()}
        for name, by_task in data["scores"].items()
    }
    test = splits["test"]
    controls = {
        kind: {
            task: replace(_scores(each), baseline=test[task].baseline) for task, each in found.items()
        }
        for kind, found in data["control_scores"].items()
    }
    cost = None
    if data["cost"] is not None:
        frame = pd.DataFrame(data["passages"])
        cost = SideEffects(frame, Record.from_json(data["cost"]["record"]), data["cost"]["resamples"])
    return SearchResult(
        Cuts([SiteCut.from_json(cut) for cut in data["cuts"]]),
        data["objective"],
        data["combine"],
        splits["validation"],
        test,
        controls,
        cost,
        pd.DataFrame(data["looks"]),
        data["settings"],
    )


def _plain(scores: Scores | None) -> dict[str, Any] | None:
    if scores is None:
        return None
    return dict(
        frame=scores.frame.to_dict(orient="list"),
        record=scores.record.to_json(),
        resamples=scores.resamples,
    )


def _scores(data: Mapping[str, Any], baseline: Mapping[str, Any] | None = None) -> Scores:
    record = Record.from_json(data["record"])
    uncut = None if baseline is None else _scores(baseline)
    return Scores(pd.DataFrame(data["frame"]), record, uncut, resamples=data["resamples"])
