"""The result of a sweep: a table with intervals, paired with the uncut model."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from tl_truncate.drawing import Drawn
from tl_truncate.experiments.scoring.answers import Outcome
from tl_truncate.experiments.scoring.drawn import draws_together, spreads, table_columns
from tl_truncate.experiments.scoring.evaluate import Scores, score_frame
from tl_truncate.experiments.scoring.keeps import keep_column
from tl_truncate.experiments.scoring.metrics import SCORED, Metric, column_of
from tl_truncate.experiments.sweep.beside import beside_controls
from tl_truncate.experiments.sweep.best import Best
from tl_truncate.experiments.sweep.grid import SWEEP, setting_key
from tl_truncate.experiments.sweep.names import setting_names
from tl_truncate.experiments.sweep.view import ShownSweep, sweep_html
from tl_truncate.runs.codec import read
from tl_truncate.runs.record import Record
from tl_truncate.runs.sharded.joining import Joined, UnfinishedShardsWarning, join, lacking_told
from tl_truncate.runs.sharded.parts import shard_of
from tl_truncate.runs.tables import own_table
from tl_truncate.statistics import q_values, shown_in
from tl_truncate.surgery.controls import is_control
from tl_truncate.surgery.cut import Cut, SiteCut
from tl_truncate.tasks.task import Task
from tl_truncate.weights.keep import Keep, as_keep
from tl_truncate.weights.site import Site


@dataclass(frozen=True)
class Setting:
    """One finished setting: the cut, how many components it keeps, and the outcome of each task."""

    cut: SiteCut
    rank: int
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, repr=False)
class SweepResult(Drawn):
    """Every cut of a grid, each alone, paired with the uncut model.

    Attributes:
        tasks: that were scored.
        baselines: the uncut model's scores by the task's name.
        settings: what is finished, in the order of the grid.
        grid: all cuts that were asked for.
        metrics: those in the table.
        manifest: what the result came from, as plain data.
    """

    tasks: tuple[Task, ...]
    baselines: Mapping[str, Scores]
    settings: tuple[Setting, ...]
    grid: tuple[SiteCut, ...]
    metrics: tuple[Metric, ...]
    manifest: Mapping[str, Any]
    resamples: int = field(default=2000, kw_only=True)

    @property
    def baseline(self) -> Scores:
        """The uncut model's scores on the only task.

        Raises:
            ValueError: if there are several tasks.
        """
        if len(self.baselines) != 1:
            raise ValueError(
                f"There must be one task to have one baseline, got {', '.join(self.baselines)}. "
                "Use .baselines[name]."
            )
        return next(iter(self.baselines.values()))

    @property
    def has_global(self) -> bool:
        """Whether all tasks have global answers."""
        return all(task.has_global for task in self.tasks)

    @property
    def finished(self) -> bool:
        """Whether every cut of the grid has been scored."""
        return len(self.settings) == len(self.grid)

    @own_table
    def frame(self) -> pd.DataFrame:
        """One row per (task, setting).

        Columns: task, site, layer, matrix, head, kind, keep, rank (components kept), draws (of a
        control, which share a row; 1 for a cut), and for each metric its mean, `<metric>_se` and its 95%
        interval `<metric>_low`, `<metric>_high`; and with the same endings `<metric>_change`, the paired
        change from the uncut model, with `<metric>_change_q`, the false discovery rate among all changes
        of that metric, task and kind, and `<metric>_change_spread`, the standard deviation of the mean
        change over draws. The answer's rank is `answer_rank`. Where demonstrations were asked for, a
        column `shots` behind the task's says how many.
        """
        tables = [self._task_table(place, task) for place, task in enumerate(self.tasks)]
        return pd.concat(tables, ignore_index=True)

    def _task_table(self, place: int, task: Task) -> pd.DataFrame:
        groups = draws_together([setting.cut for setting in self.settings])
        first = [self.settings[group[0]] for group in groups]
        rows = [
            dict(
                task=task.name,
                site=str(setting.cut.site),
                layer=setting.cut.site.layer,
                matrix=setting.cut.site.matrix,
                head=setting.cut.site.head,
                kind=setting.cut.kind,
                keep=setting.cut.label,
                rank=setting.rank,
                draws=len(group),
            )
            for group, setting in zip(groups, first, strict=True)
        ]
        table = pd.DataFrame(rows, columns=SETTING_COLUMNS)
        table["head"] = table["head"].astype("Int64")
        table["keep"] = keep_column(setting.cut.label for setting in first)
        if any(each.shots is not None for each in self.tasks):
            table.insert(1, "shots", pd.array([task.shots] * len(table), dtype="Int64"))
        if not rows:
            return table
        base = self.baselines[task.name].frame
        outcomes = [setting.outcomes[place].metrics() for setting in self.settings]
        columns: dict[str, Any] = {}
        for metric in self.metrics:
            values = np.stack([each[metric].to_numpy() for each in outcomes], axis=1)
            name = column_of(metric)
            columns |= table_columns(metric, values, groups).named(name)
            changes = values - base[metric].to_numpy()[:, None]
            found = table_columns(metric, changes, groups, changes=True)
            columns |= found.named(f"{name}_change")
            q = pd.Series(found.p).groupby(table["kind"]).transform(q_values)
            columns[f"{name}_change_q"] = q.to_numpy()
            columns[f"{name}_change_spread"] = spreads(changes, groups)
        return pd.concat([table, pd.DataFrame(columns)], axis=1)

    @cached_property
    def beside_controls(self) -> pd.DataFrame:
        """One row per (task, cut, control, metric): whether the cut does more than its control.

        Columns: task, site, keep, strength, control (its kind), draws, metric; change, of the cut;
        control_change and control_spread, mean and standard deviation of the control's mean changes over
        draws; difference, low, high: the cut less a random draw of the control, with the uncertainty of
        prompts and of draws; q, the false discovery rate among the rows of the same task, control and
        metric; verdict: `more`, `less`, `alike`, or `none` where prompts or draws are too few; row, the
        cut's in `frame`, where two cuts of a site may look alike.

        A control is that of a cut which gives it, `cut.controls(seed)`, and is called as it is there.
        """
        rows = len(draws_together([setting.cut for setting in self.settings]))
        tables = [
            beside_controls(
                task.name,
                [setting.cut for setting in self.settings],
                [setting.outcomes[place].metrics() for setting in self.settings],
                self.baselines[task.name].frame,
                self.metrics,
            ).assign(row=lambda table, before=place * rows: table["row"] + before)
            for place, task in enumerate(self.tasks)
        ]
        return pd.concat(tables, ignore_index=True)

    def scores(self, site: Site | str, keep: Keep | int | float, *, task: str | None = None) -> Scores:
        """The scores of one cut, prompt by prompt and paired with the uncut model.

        Args:
            site: of the cut.
            keep: as it was given to the sweep.
            task: its name; may be left away if there is one task.

        Raises:
            ValueError: if the sweep has no such setting.
        """
        return self.scores_of(Cut(site, as_keep(keep)), task=task)

    def scores_of(self, cut: SiteCut, *, task: str | None = None) -> Scores:
        """The scores of one cut or control of the grid, paired with the uncut model.

        Raises:
            ValueError: if the sweep has no such setting or task.
        """
        name = self.baseline.record.task if task is None else task
        names = [each.name for each in self.tasks]
        if name not in names:
            raise ValueError(f"The task must be one of {', '.join(names)}, got {name!r}.")
        key = setting_key(cut)
        found = [setting for setting in self.settings if setting_key(setting.cut) == key]
        if not found:
            raise ValueError(f"The cut must be one of the sweep's finished settings, got {cut!r}.")
        base = self.baselines[name]
        frame = base.frame.copy()
        metrics = found[0].outcomes[names.index(name)].metrics()
        frame[metrics.columns] = metrics
        cuts = (*base.record.cuts, cut.to_json())
        record = Record(**{**base.record.__dict__, "cuts": cuts})
        return Scores(frame, record, base, resamples=self.resamples)

    def best(self, metric: Metric, *, task: str | None = None, smallest: bool = False) -> Best:
        """The cut with the largest rise of a metric; no control is looked at.

        It is chosen on the prompts that it is shown on, so its change is flattered: test it on others.

        Args:
            metric: one of the sweep's.
            task: its name; may be left away if there is one task.
            smallest: takes the largest fall.

        Raises:
            ValueError: if the metric or the task is not the sweep's, or no cut has been scored.
        """
        if metric not in self.metrics:
            raise ValueError(f"The metric must be one of {', '.join(self.metrics)}, got {metric!r}.")
        names = [each.name for each in self.tasks]
        name = self.baseline.record.task if task is None else task
        if name not in names:
            raise ValueError(f"The task must be one of {', '.join(names)}, got {name!r}.")
        place = names.index(name)
        groups = draws_together([setting.cut for setting in self.settings])
        cuts = [self.settings[group[0]].cut for group in groups]
        table, column = self._task_table(place, self.tasks[place]), f"{column_of(metric)}_change"
        own = table[[not is_control(cut) for cut in cuts]]
        if own.empty or own[column].isna().all():
            raise ValueError(f"A cut must have been scored for {metric} on {name}, but none has.")
        row = own[column].idxmin() if smallest else own[column].idxmax()
        cut = cuts[int(row)]
        change = self.scores_of(cut, task=name).change(metric)
        return Best(cut, name, metric, change, float(own.loc[row, f"{column}_q"]))

    @classmethod
    def load(cls, run_dir: str | os.PathLike[str]) -> "SweepResult":
        """Reads a run folder, also one that is not finished, with what its shards have finished.

        Args:
            run_dir: that a sweep wrote to.

        Raises:
            ValueError: if the folder holds no sweep, or nothing has been scored yet, or its shards are
                not of one run.
            UnfinishedShardsWarning: as a warning, if a shard has something to do, with which.
        """
        joined = join(run_dir, SWEEP)
        if joined.baseline is None:
            raise ValueError(
                f"The sweep in {run_dir} must have begun to score, but it has not. Resume it."
            )
        if joined.lacking:
            warnings.warn(lacking_told(run_dir, joined), UnfinishedShardsWarning, stacklevel=2)
        return joined_result(joined)

    @property
    def shown(self) -> ShownSweep:
        """The result as plain data, for pages."""
        return ShownSweep(
            frame=self._with_strengths,
            beside=self.beside_controls,
            baselines={task: scores.shown for task, scores in self.baselines.items()},
            metrics=tuple(map(column_of, self.metrics)),
            sites=len({str(cut.site) for cut in self.grid}),
            keeps=len({(type(cut.label), cut.label) for cut in self.grid}),
            asked=len(self.grid),
            done=len(self.settings),
            drawn=sum(map(is_control, self.grid)),
            controls=tuple({cut.kind for cut in self.grid if is_control(cut)}),
            around=next(iter(self.baselines.values())).record.cuts,
        )

    def __str__(self) -> str:
        lines = [f"{len(self.settings)} of {len(self.grid)} settings on {len(self.tasks)} tasks"]
        if shard := shard_of(self.manifest):
            lines[0] = f"shard {shard}: {lines[0]}"
        if not self.finished:
            lines[0] += " (unfinished: the same call with the same run_dir goes on)"
        for task in self.tasks:
            lines += [str(self.baselines[task.name]).splitlines()[0], self._extremes(task.name)]
        lines.append("Rows are picked by looking at these prompts: test a pick on prompts of its own.")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return sweep_html(self.shown)

    def __repr__(self) -> str:
        return str(self)

    @property
    def _with_strengths(self) -> pd.DataFrame:
        """The frame with each setting's strength, and with a name that is its own."""
        cuts = self.firsts
        strengths, names = [cut.strength for cut in cuts], setting_names([cuts])
        told = [names[setting_key(cut)] for cut in cuts] * len(self.tasks)
        return self.frame.assign(
            strength=np.tile(np.asarray(strengths, float), len(self.tasks)),
            told=pd.Series(told, self.frame.index, dtype=object),
        )

    @property
    def firsts(self) -> list[SiteCut]:
        """What each row of a task is of: a cut, or the first draw of a control."""
        groups = draws_together([setting.cut for setting in self.settings])
        return [self.settings[group[0]].cut for group in groups]

    def _extremes(self, task: str) -> str:
        metric = column_of(self.metrics[-1])
        drawn = {cut.kind for cut in self.grid if is_control(cut)}
        frame = self._with_strengths
        table = frame[(frame["task"] == task) & ~frame["kind"].isin(drawn)]
        if table.empty:
            return "  nothing is finished"
        change = table[f"{metric}_change"]
        lines = []
        for word, place, is_one in (
            ("rise", change.idxmax(), change.max() > 0),
            ("fall", change.idxmin(), change.min() < 0),
        ):
            row = table.loc[place]
            told = row["told"]
            change_told = shown_in(row, f"{metric}_change", signed=True)
            lines.append(
                f"  largest {word} of {metric}: {told}, {change_told}"
                if is_one
                else f"  no {word} of {metric}: at {told} it is nearest, {change_told}"
            )
        return "\n".join(lines)


SETTING_COLUMNS = ["task", "site", "layer", "matrix", "head", "kind", "keep", "rank", "draws"]


def joined_result(joined: Joined, cuts: Sequence[SiteCut] | None = None) -> SweepResult:
    """The result of a run folder with its shards; `result_fields` says what the cuts are for."""
    settings = [read(Setting, line) for line in joined.lines]
    return SweepResult(**result_fields(joined.manifest, joined.baseline, settings, cuts))


def result_fields(
    manifest: Mapping[str, Any],
    baseline: Sequence[dict[str, Any]],
    settings: Sequence[Setting],
    cuts: Sequence[SiteCut] | None = None,
) -> dict[str, Any]:
    """The fields of a result, from what a run folder holds; a setting that is there twice counts once.

    Cuts whose token means were never saved cannot be read back, so whoever has the cuts gives them.
    """
    tasks = tuple(read(Task, each) for each in manifest["tasks"])
    resamples = manifest.get("resamples", 2000)
    baselines = {}
    for task, data in zip(tasks, baseline, strict=True):
        frame = score_frame(task, data["n_tokens"], read(Outcome, data["outcome"]))
        record = read(Record, data["record"])
        baselines[task.name] = Scores(frame, record, resamples=resamples)
    grid = tuple(map(SiteCut.from_json, manifest["grid"]) if cuts is None else cuts)
    finished = {setting_key(setting.cut): setting for setting in reversed(settings)}
    in_order = [replace(finished[key], cut=cut) for cut in grid if (key := setting_key(cut)) in finished]
    return dict(
        tasks=tasks,
        baselines=baselines,
        settings=tuple(in_order),
        grid=grid,
        metrics=tuple(manifest.get("metrics", SCORED)),
        manifest=manifest,
        resamples=resamples,
    )
