"""The harness' numbers of a model uncut and cut, with the paired change of each."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from tl_truncate.evals.answered import Answered, Number, require_paired, tasks_of, values_of
from tl_truncate.evals.changes import Way, change, over_draws, way_of
from tl_truncate.experiments.scoring.drawn import verdict
from tl_truncate.runs.codec import read
from tl_truncate.runs.files import rows_of
from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.record import Record
from tl_truncate.runs.tables import own_table
from tl_truncate.statistics import Estimate, q_values, shown_in

UNCUT, CUT = "uncut", "cut"
#: Of the manifest of a run folder.
KIND = "benchmark"
_ENDS = ("low", "high", "se")


@dataclass(frozen=True, repr=False)
class Benchmarks:
    """Tasks of the harness asked of a model uncut, cut and, if asked for, with controls.

    Attributes:
        answered: what is finished, by task and variant.
        manifest: what the result came from, as plain data.
    """

    answered: tuple[Answered, ...]
    manifest: Mapping[str, Any]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks and groups as they were named, of which both sides are finished."""
        return tuple(self._variants)

    @property
    def finished(self) -> bool:
        """Whether everything that was asked for has been answered."""
        asked = {(task, each) for task in self.manifest["tasks"] for each in self.manifest["variants"]}
        return asked <= {(each.name, each.variant) for each in self.answered}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the harness warned of, such as prompts whose beginnings did not fit."""
        return tuple(dict.fromkeys(note for each in self.answered for note in each.notes))

    @cached_property
    def _variants(self) -> dict[str, dict[str, Answered]]:
        found: dict[str, dict[str, Answered]] = {}
        for each in self.answered:
            found.setdefault(each.name, {})[each.variant] = each
        whole = {name: by for name, by in found.items() if UNCUT in by and (CUT in by or not self.cuts)}
        for by in whole.values():
            for each in by.values():
                require_paired(by[UNCUT], each)
        return whole

    @property
    def cuts(self) -> tuple[Mapping[str, Any], ...]:
        """The cuts, as plain data."""
        return tuple(self.manifest["cuts"])

    @property
    def record(self) -> Record:
        """What the result came from."""
        facts = {name: self.manifest[name] for name in _OF_RECORD if name in self.manifest}
        prompts = sum(len(by[UNCUT].samples) for by in self._variants.values())
        return Record(
            **facts, task=", ".join(self.tasks), n_prompts=prompts, cuts=tuple(map(dict, self.cuts))
        )

    @own_table
    def frame(self) -> pd.DataFrame:
        """One row per (task, filter, metric).

        Columns: task, filter, metric, shots, n (samples), uncut and cut (the harness' own numbers),
        change with its 95% interval change_low, change_high and change_se, paired by sample; q, the
        false discovery rate among all rows; higher_is_better; group (whether the row is of several
        tasks). A metric that no sample has a number of, such as a corpus' BLEU, has no interval.
        """
        rows = []
        for by in self._variants.values():
            for number in by[UNCUT].numbers:
                rows.append(self._row(by, number))
        table = pd.DataFrame(rows, columns=[*_COLUMNS, "p"])
        table.insert(table.columns.get_loc("higher_is_better"), "q", q_values(table.pop("p")))
        return table

    def _row(self, by: Mapping[str, Answered], number: Number) -> dict[str, Any]:
        uncut, cut = number.value, _value(by.get(CUT), number)
        found = self._change(by, number)
        samples = values_of(by[UNCUT], number)
        row: dict[str, Any] = dict(
            task=number.task,
            filter=number.filter,
            metric=number.metric,
            shots=number.shots,
            n=_count(by[UNCUT], number) if samples is None else len(samples),
            uncut=uncut,
            cut=cut,
            change=np.nan if uncut is None or cut is None else cut - uncut,
        )
        for end in _ENDS:
            row[f"change_{end}"] = np.nan if found is None else getattr(found, end)
        return row | dict(
            p=np.nan if found is None else found.p,
            higher_is_better=number.higher_is_better,
            group=bool(number.parts),
        )

    def _change(self, by: Mapping[str, Answered], number: Number) -> Estimate | None:
        if CUT not in by:
            return None
        before, after = (values_of(by[each], number) for each in (UNCUT, CUT))
        if before is None or after is None:
            return None
        return change(self._way(by, number, (UNCUT, CUT)), before, after)

    def _way(self, by: Mapping[str, Answered], number: Number, variants: tuple[str, ...]) -> Way | None:
        values = [values_of(by[each], number) for each in variants]
        numbers = [_value(by[each], number) for each in variants]
        known = [each for each in numbers if each is not None and np.isfinite(each)]
        if None in values or len(known) < len(numbers):
            return None
        return way_of([each for each in values if each is not None], known)

    @own_table
    def controls(self) -> pd.DataFrame:
        """One row per (task, filter, metric, control): whether the cut does more than a random draw.

        Columns: task, filter, metric, control (its kind), draws, change (of the cut), control_change and
        control_spread (mean and standard deviation of the number's change over draws), difference, low,
        high: the cut less one draw, with the uncertainty of samples and of draws; q among the rows of
        the same control; verdict.
        """
        rows = []
        for by in self._variants.values():
            kinds: dict[str, list[str]] = {}
            for variant in by:
                if variant not in (UNCUT, CUT):
                    kinds.setdefault(variant.rsplit(" ", 1)[0], []).append(variant)
            for number in by[UNCUT].numbers:
                for kind, draws in kinds.items():
                    rows.append(self._beside(by, number, kind, draws))
        table = pd.DataFrame(rows, columns=[*_BESIDE, "p", "estimate"])
        table["q"] = table.groupby("control")["p"].transform(q_values) if len(table) else []
        table["verdict"] = [
            "none" if found is None else verdict(found, q)
            for found, q in zip(table.pop("estimate"), table["q"], strict=True)
        ]
        return table.drop(columns="p")

    def _beside(
        self, by: Mapping[str, Answered], number: Number, kind: str, draws: list[str]
    ) -> dict[str, Any]:
        numbers = [_value(by[each], number) for each in draws]
        changes = np.array(
            [np.nan if each is None or number.value is None else each - number.value for each in numbers]
        )
        after = _value(by[CUT], number)
        way = self._way(by, number, (UNCUT, CUT, *draws))
        values = [values_of(by[each], number) for each in (CUT, *draws)]
        found = None
        if way is not None:
            own, *drawn = [each for each in values if each is not None]
            found = over_draws(way, own, drawn)
        return dict(
            task=number.task,
            filter=number.filter,
            metric=number.metric,
            control=kind,
            draws=len(draws),
            change=np.nan if after is None or number.value is None else after - number.value,
            control_change=changes.mean(),
            control_spread=changes.std(ddof=1) if len(changes) > 1 else np.nan,
            difference=np.nan if found is None else float(found),
            low=np.nan if found is None else found.low,
            high=np.nan if found is None else found.high,
            p=np.nan if found is None else found.p,
            estimate=found,
        )

    @own_table
    def samples(self) -> pd.DataFrame:
        """One row per sample, filter and metric.

        Columns: task, filter, doc_id, metric, asked (the end of the prompt), target, uncut_said,
        cut_said, uncut and cut (the sample's value of the metric; a sum, where it has a weight).
        """
        rows = []
        for by in self._variants.values():
            sides = [by[UNCUT].samples, by.get(CUT, by[UNCUT]).samples]
            for one, other in zip(*sides, strict=True):
                for metric, value in one.values.items():
                    rows.append(
                        dict(
                            task=one.task,
                            filter=one.filter,
                            doc_id=one.doc_id,
                            metric=metric,
                            asked=one.asked,
                            target=one.target,
                            uncut_said=one.said,
                            cut_said=other.said,
                            uncut=value[0],
                            cut=other.values[metric][0],
                        )
                    )
        return pd.DataFrame(rows, columns=_SAMPLE)

    def to_json(self) -> dict[str, Any]:
        """The tables and the record as plain data."""
        return {
            "record": self.record.to_json(),
            "scores": rows_of(self.frame),
            "controls": rows_of(self.controls),
            "notes": list(self.notes),
        }

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Benchmarks":
        """Reads a run folder, also one that is not finished.

        Raises:
            ValueError: if it holds no run of `benchmark`, or no task that both sides have answered.
        """
        place = RunFolder(folder)
        manifest = place.manifest()
        if manifest.get("kind") != KIND:
            raise ValueError(
                "The folder must hold a run of benchmark, got kind "
                f"{manifest.get('kind')!r} in {folder}."
            )
        found = cls(tuple(read(Answered, line) for line in place.lines()), manifest)
        if not found.tasks:
            raise ValueError(
                f"The run in {folder} must have a task that was asked uncut and cut, but none is "
                "finished. The same call with the same folder goes on."
            )
        return found

    def __str__(self) -> str:
        lines = [f"{len(self.cuts)} cut{'s' * (len(self.cuts) != 1)} on {self.manifest['model']}"]
        for row in self.frame.to_dict("records"):
            told = (
                f"{row['task']} {row['metric']} ({row['filter']}), {row['shots']} shots, n={row['n']}: "
            )
            told += f"{_told(row['uncut'])}"
            if self.cuts:
                told += f" -> {_told(row['cut'])}, change {shown_change(row)}"
            lines.append(told)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


_OF_RECORD = (
    "model",
    "model_class",
    "n_layers",
    "dtype",
    "device",
    "weights",
    "weights_hash",
    "seed",
    "versions",
)
_COLUMNS = ["task", "filter", "metric", "shots", "n", "uncut", "cut", "change"]
_COLUMNS += [*(f"change_{end}" for end in _ENDS), "higher_is_better", "group"]
_BESIDE = ["task", "filter", "metric", "control", "draws", "change", "control_change"]
_BESIDE += ["control_spread", "difference", "low", "high"]
_SAMPLE = ["task", "filter", "doc_id", "metric", "asked", "target", "uncut_said", "cut_said"]
_SAMPLE += ["uncut", "cut"]


def shown_change(row: Mapping[str, Any]) -> str:
    """A row's change with its interval, in words where it has none."""
    if np.isnan(row["change_low"]) and not np.isnan(row["change"]) and row["n"] >= 5:
        return f"{row['change']:+.3f} [no interval]"
    return shown_in(row, "change", signed=True)


def _told(value: float | None) -> str:
    return "none" if value is None or np.isnan(value) else f"{value:.4g}"


def _value(answered: Answered | None, number: Number) -> float | None:
    """The same number of another variant."""
    wanted = (number.task, number.filter, number.metric)
    for each in () if answered is None else answered.numbers:
        if (each.task, each.filter, each.metric) == wanted:
            return each.value
    return None


def _count(answered: Answered, number: Number) -> int:
    tasks = tasks_of(answered, number)
    return sum(each.task in tasks and each.filter == number.filter for each in answered.samples)
