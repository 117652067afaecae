"""The report of the harness' tasks, uncut and cut on the same samples."""

from collections.abc import Iterator

import pandas as pd
from markupsafe import Markup

from tl_truncate.evals.result import Benchmarks, shown_change
from tl_truncate.experiments.scoring.drawn import VERDICTS, towards
from tl_truncate.markup import details, join, paragraphs, table
from tl_truncate.report.answers.benchmarks import benchmarks_answer, label_of_row
from tl_truncate.report.answers.verdicts import NONE
from tl_truncate.report.charts import points_panel
from tl_truncate.report.page import Chart, Page, Section
from tl_truncate.report.provenance import provenance
from tl_truncate.statistics import clear, shown
from tl_truncate.surgery.spoken import said_kind

_COLUMNS = ("task", "metric", "shots", "samples", "uncut", "cut", "change", "q")
#: Samples that a task's table shows, those whose value has changed before the others.
_SAMPLES = 100


def benchmarks_page(found: Benchmarks) -> Page:
    """Every number with its change, what random cuts change, samples, and where it comes from."""
    frame = found.frame
    sections = [
        Section("summary", "Summary", paragraphs(_words(found, frame))),
        Section("scores", "Scores", _scores(frame), charts=_charts(found, frame)),
    ]
    if len(found.controls):
        sections.append(Section("controls", "Controls", _controls(found.controls)))
    sections.append(Section("samples", "Samples", join(_samples(found))))
    sections.append(Section("provenance", "Where this comes from", provenance(_facts(found))))
    title = f"{', '.join(found.tasks)} on {found.record.model}"
    return Page(title, benchmarks_answer(found), tuple(sections))


def _words(found: Benchmarks, frame: pd.DataFrame) -> Iterator[str]:
    record = found.record
    cuts = len(found.cuts)
    yield (
        f"{len(found.tasks)} of {len(found.manifest['tasks'])} tasks of lm-evaluation-harness "
        f"{found.manifest['lm_eval']} were asked of {record.model} ({record.weights} weights, "
        f"{record.dtype}) uncut and with {cuts} cut{'s' if cuts != 1 else ''}, on the same samples. The "
        "numbers are the harness' own; intervals are of the paired change (95%)."
    )
    if cuts:
        changed = frame[frame["q"].map(clear)]
        yield (
            f"{len(changed)} of {int(frame['q'].notna().sum())} changes that have an interval are clear "
            "of zero at a false discovery rate of 5%."
        )
    for note in found.notes:
        yield f"The harness warned: {note}"


def _scores(frame: pd.DataFrame) -> Markup:
    rows = []
    for _, row in frame.iterrows():
        metric = row["metric"] if row["filter"] == "none" else f"{row['metric']} ({row['filter']})"
        numbers = ["" if pd.isna(row[each]) else f"{row[each]:.4f}" for each in ("uncut", "cut")]
        change = "" if pd.isna(row["change"]) else shown_change(row.to_dict())
        q = "" if pd.isna(row["q"]) else f"{row['q']:.3f}"
        rows.append([row["task"], metric, str(row["shots"]), str(row["n"]), *numbers, change, q])
    return table(_COLUMNS, rows, caption="The harness' numbers, uncut and cut", texts=2)


def _charts(found: Benchmarks, frame: pd.DataFrame) -> tuple[Chart, ...]:
    """The changes with their intervals; nothing where there are none."""
    own = frame[frame["change_low"].notna()]
    if not found.cuts or own.empty:
        return ()
    values = {name: own[f"change{end}"] for name, end in (("y", ""), ("low", "_low"), ("high", "_high"))}
    names = [label_of_row(row) for _, row in own.iterrows()]
    panel = points_panel([], values, names, x="change")
    told = "Dots with intervals: the change of each number. A table stands above."
    return (Chart("changes", "points", told, (), (panel,)),)


def _controls(controls: pd.DataFrame) -> Markup:
    rows = [
        [
            label_of_row(row),
            said_kind(row["control"]),
            str(row["draws"]),
            NONE if pd.isna(row["control_change"]) else f"{row['control_change']:+.3f}",
            "" if pd.isna(row["control_spread"]) else f"{row['control_spread']:.3f}",
            NONE
            if pd.isna(row["difference"])
            else shown(row["difference"], row["low"], row["high"], signed=True),
            VERDICTS[towards(row["verdict"], row["change"])],
        ]
        for _, row in controls.iterrows()
    ]
    columns = ("number", "control", "draws", "mean change", "spread", "cut less one draw", "verdict")
    return table(columns, rows, caption="As much removed at random", texts=2)


def _samples(found: Benchmarks) -> Iterator[Markup]:
    """A folded table for each task, filter and metric."""
    for (task, read_by, metric), own in found.samples.groupby(["task", "filter", "metric"], sort=False):
        changed = (own["uncut"] != own["cut"]).sum()
        own = own.assign(same=own["uncut"] == own["cut"]).sort_values("same", kind="stable")
        rows = [
            [
                str(row["doc_id"]),
                row["asked"],
                row["target"],
                row["uncut_said"],
                row["cut_said"],
                f"{row['uncut']:.3g}",
                f"{row['cut']:.3g}",
            ]
            for _, row in own.head(_SAMPLES).iterrows()
        ]
        columns = ("sample", "end of the prompt", "target", "uncut said", "cut said", "uncut", "cut")
        told = f"{task}, {metric} ({read_by}): {changed} of {len(own)} samples changed"
        shown_of = f"{told}; {len(rows)} of them" if len(rows) < len(own) else told
        yield details(told, table(columns, rows, caption=shown_of, texts=5))


def _facts(found: Benchmarks) -> dict[str, object]:
    """The manifest without what has a table of its own."""
    return {name: each for name, each in found.manifest.items() if name not in ("variants", "around")}
