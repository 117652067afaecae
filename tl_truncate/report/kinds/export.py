"""The report of an exported adapter or checkpoint, from what lies beside its weights."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tl_truncate.experiments.scoring.metrics import LABELS, label_of
from tl_truncate.experiments.scoring.view import record_table
from tl_truncate.export.card import RECORD
from tl_truncate.markup import table
from tl_truncate.report.answers.sweep import first_metric
from tl_truncate.report.answers.verdicts import NONE, NOT_READ, counted, moves
from tl_truncate.report.page import Answer, Number, Page, Section
from tl_truncate.report.pictures.forest import Row, forest
from tl_truncate.runs.files import read_json
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.spoken import listed, said_cut
from tl_truncate.weights.files import as_path

_KINDS = {"adapter": "LoRA adapter", "checkpoint": "checkpoint"}
# An estimate as a card has it: a number, and the ends of its interval if it has one.
_ESTIMATE = re.compile(r"([+-]?[\d.]+)(?: \[([+-]?[\d.]+), ([+-]?[\d.]+)\])?")
_SHARES = ("p_in_context", "p_global", "accuracy")


@dataclass(frozen=True)
class Exported:
    """A folder that `export_adapter` or `export_checkpoint` wrote.

    Attributes:
        record: what its `tl_truncate.json` says.
        sizes: of its files, in bytes, by name.
    """

    record: Mapping[str, Any]
    sizes: Mapping[str, int]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Exported | None":
        """Reads an exported folder; None if it is none.

        Raises:
            ValueError: if its record is damaged.
        """
        path = as_path(folder)
        if not (path / RECORD).is_file():
            return None
        record = read_json(path / RECORD)
        if record.get("kind") not in _KINDS:
            return None
        files = sorted(each for each in path.iterdir() if each.is_file())
        return cls(record, {each.name: each.stat().st_size for each in files})

    @property
    def cuts(self) -> list[str]:
        """Its cuts, in words."""
        return [said_cut(SiteCut.from_json(dict(each))) for each in self.record["cuts"]]


def export_page(found: Exported) -> Page:
    """What was exported, what it changes as its card has it, and where it comes from."""
    record = found.record
    facts = {"base": record["base"]["name"], "revision": record["base"]["revision"] or NONE}
    facts |= {"compared with the base's files": record["compared_with_files"], **record["model"]}
    facts["versions"] = record["versions"]
    files = [(name, f"{size / 1e6:,.2f}") for name, size in found.sizes.items()]
    sections = [
        Section("cuts", "Cuts", table(["cut"], [[cut] for cut in found.cuts], caption="Made together")),
        Section("scores", "Scores", _scores(record["scores"])),
        Section("files", "Files", table(["file", "MB"], files, caption="In the folder")),
        Section("provenance", "Where this comes from", record_table(facts)),
    ]
    title = f"{_KINDS[record['kind']]} of {_base(found)}"
    return Page(title, _answer(found), tuple(sections))


def _base(found: Exported) -> str:
    """The base's name; of a folder the last part."""
    return os.path.basename(str(found.record["base"]["name"]).rstrip("/")) or "unknown weights"


def _scores(scores: Mapping[str, Any] | None) -> Markup:
    if scores is None:
        return Markup("<p>None were given when it was exported.</p>")
    both = "p_global" in scores["metrics"]
    rows = [
        [label_of(name, both).short, *(each[side] or NONE for side in ("uncut", "cut", "change"))]
        for name, each in scores["metrics"].items()
    ]
    caption = f"{scores['task']}, {counted(scores['n_prompts'], 'prompt')}: means with 95% intervals"
    return table(["metric", "uncut", "cut", "change"], rows, caption=caption)


def _estimate(text: str | None) -> tuple[float, float, float]:
    found = None if text is None else _ESTIMATE.match(text)
    if found is None:
        return math.nan, math.nan, math.nan
    value, low, high = (math.nan if each is None else float(each) for each in found.groups())
    return value, low, high


def _answer(found: Exported) -> Answer:
    record, scores = found.record, found.record["scores"]
    what = f"This {_KINDS[record['kind']]} of {_base(found)} makes {counted(len(found.cuts), 'cut')}"
    megabytes = sum(found.sizes.values()) / 1e6
    size = Number("size", f"{megabytes:,.1f} MB", counted(len(found.sizes), "file"))
    named = f"{what}, {listed(found.cuts)}" if found.cuts else what
    metrics = {} if scores is None else scores["metrics"]
    both = "p_global" in metrics
    known = [name for name in metrics if name in LABELS and metrics[name]["change"] is not None]
    if not known:
        sentence = f"{named}; it was exported without scores, so what it does is not known here."
        rows = [
            Row(name, bytes_ / 1e6, kind="uncut", told=f"{bytes_ / 1e6:,.2f} MB")
            for name, bytes_ in sorted(found.sizes.items(), key=lambda each: -each[1])[:10]
        ]
        few = (size, Number("cuts", str(len(found.cuts)), "made together"))
        return Answer(sentence, few, forest(rows, "Dots: the size of each file.", "MB"))
    metric = first_metric(known)
    text = metrics[metric]["change"]
    value, low, high = _estimate(text)
    clear = (
        "too few prompts for an interval"
        if math.isnan(low)
        else f"its 95% interval {'leaves zero out' if low > 0 or high < 0 else 'has zero in it'}"
    )
    sentence = (
        f"{named}: on {counted(scores['n_prompts'], 'prompt')} of {scores['task']} it {moves(value)} "
        f"{label_of(metric, both).told} by {text}, {clear}; no control is on its card."
    )
    first, _, rest = str(metrics[metric]["uncut"]).partition(" ")
    by, _, ends = text.partition(" ")
    numbers = (
        Number(f"uncut: {label_of(metric, both).short}", first, rest),
        Number("change", by, ends),
        Number("its control", NONE, "none is on the card"),
        NOT_READ,
        size,
    )
    rows = []
    for name in (each for each in _SHARES if each in known):
        value, low, high = _estimate(metrics[name]["change"])
        rows.append(Row(label_of(name, both).short, value, low, high, "cut", metrics[name]["change"]))
    caption = "The changes on its card, with 95% intervals."
    label = "Dots with intervals: the change of each metric. A table is below."
    return Answer(sentence, numbers, forest(rows, label, "paired change from the uncut model"), caption)
