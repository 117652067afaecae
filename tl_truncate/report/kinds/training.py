"""Reports of what happens in training: a task over checkpoints, and noisy in-context recall."""

import re
import warnings
from collections.abc import Sequence
from itertools import product
from typing import Any

import pandas as pd
from markupsafe import Markup

from tl_truncate.decompose.parts import PARTS
from tl_truncate.experiments.scoring.metrics import (
    PROBABILITIES,
    answer_name,
    first,
    label_of,
    metrics_of,
)
from tl_truncate.experiments.scoring.view import frame_table, scores_table
from tl_truncate.experiments.training.reading import UNCUT
from tl_truncate.experiments.training.result import Dynamics, MissingStepsWarning
from tl_truncate.experiments.training.steps import FirstStep
from tl_truncate.markup import join, paragraphs
from tl_truncate.report import prompts
from tl_truncate.report.answers.training import among, dynamics_answer, recall_answer
from tl_truncate.report.charts import estimates
from tl_truncate.report.page import Chart, Choice, Page, Section, rounded
from tl_truncate.report.provenance import provenance
from tl_truncate.statistics import shown_in
from tl_truncate.toys.recall.train import RecallRun

#: At the end of the name of a checkpoint.
_STEP = re.compile(r"@step\d+$")
#: In the name of a probe of a cut model: the layer.
_MLP = re.compile(r"_mlp(\d+)_")


def dynamics_page(history: Dynamics) -> Page:
    """Summary, curves over training, the parts' curves if there are some, prompts and provenance."""
    every = [history.of(task.name) for task in history.tasks]
    each = [own for own in every if own.checkpoints]
    told = Markup(
        "<p>Bars are 95% intervals over prompts; the steps are on a logarithmic axis. Lines are "
        "interrupted where a step is missing.</p>"
    )
    tables = [(own.checkpoints[-1], own) for own in each]
    sections = [
        Section("summary", "Summary", paragraphs([word for own in each for word in _words(own)])),
        Section(
            "baseline",
            f"The uncut model after step {history.checkpoints[-1]}",
            join([scores_table(own.scores(last).shown, own.task.name) for last, own in tables]),
        ),
        Section("curves", "Over training", told, (_curves(each),)),
    ]
    divided = [own for own in each if own.parts]
    if divided:
        told = Markup(
            "<p>What the global and the in-context part of each MLP's output add to the logits of the "
            "two answers, with 95% intervals over prompts.</p>"
        )
        sections.append(Section("parts", "MLP outputs in two parts", told, (_parts(divided),)))
    sections += [
        Section("prompts", "Prompt by prompt", prompts=True),
        Section("provenance", "Where this comes from", provenance(history.manifest)),
    ]
    model = history.manifest["model"] or tables[0][1].scores(tables[0][0]).record.model
    groups = tuple(_group(own, prompts.share(len(each))) for own in each)
    names = ", ".join(own.task.name for own in each)
    title = f"{names} over the training of {_STEP.sub('', str(model))}"
    return Page(title, dynamics_answer(each[0]), tuple(sections), groups)


def _words(history: Dynamics) -> list[str]:
    done, asked = len(history.readings), len(set(history.asked) | set(history.readings))
    words = [
        f"{len(history.task)} prompts of {history.task.name} were asked at {done} of {asked} "
        f"checkpoints, of the uncut model and of {len(history.names) - 1} cut ones."
    ]
    words += [
        f"Step {step} is missing, since it could not be read: {why}"
        for step, why in history.failed.items()
    ]
    if set(history.missing) - set(history.failed):
        words.append("The run is not finished; the same call with the same folder goes on.")
    has_global = history.task.has_global
    known = history.frame
    for metric in reversed(
        [
            each
            for each in metrics_of(history.task, PROBABILITIES)
            if each in known and known[each].notna().any()
        ]
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MissingStepsWarning)  # which the page has said above
            step = history.first_step(metric, 0.3)
        rule = "at two checkpoints in a row; 95% interval over prompts"
        told = (
            "at none of them for good" if step is None else f"from step {_step_told(step)} on ({rule})"
        )
        words.append(f"In the uncut model {label_of(metric, has_global).told} is above 0.3 {told}.")
    last = history.checkpoints[-1]
    table = history.frame[history.frame["step"] == last].set_index("cut")
    for name in history.names_at(last)[1:]:
        row = table.loc[name]
        words.append(
            f"At step {last}, {name} changes {label_of('p_in_context', has_global).told} by "
            f"{shown_in(row, 'p_in_context_change', signed=True)}, q = "
            f"{row['p_in_context_change_q']:.2g} {among(history, name, 'p_in_context')}."
        )
    return words


def _step_told(step: FirstStep) -> str:
    """The step with its interval, where that has more than one checkpoint."""
    sure = step.low == step.high == int(step) and not step.missing
    return f"{int(step)}" if sure else str(step)


def _curves(histories: Sequence[Dynamics]) -> Chart:
    panels, names = [], histories[0].names
    has_global = all(each.task.has_global for each in histories)
    metrics = first("p_in_context", metrics_of([each.task for each in histories]))
    for history, metric in product(histories, metrics):
        frame = history.frame
        for kind, ending in (("value", ""), ("change from uncut", "_change")):
            series = [
                _series(frame[frame["cut"] == name], name, place, f"{metric}{ending}")
                for place, name in enumerate(names)
                if not (ending and name == UNCUT)
            ]
            if series:
                title = (
                    label_of(metric, has_global).short
                    if not ending
                    else f"change of {label_of(metric, has_global).short}"
                )
                key = [*_key(histories, history), label_of(metric, has_global).short, kind]
                panels.append(dict(key=key, x="training step", y=title, series=series))
    kinds = ("value", "change from uncut") if len(names) > 1 else ("value",)
    choices = [
        *_choice(histories),
        Choice("metric", tuple(label_of(metric, has_global).short for metric in metrics)),
        Choice("show", kinds),
    ]
    label = "Curves: the metric against the training step, uncut and cut, with 95% intervals."
    return Chart("curves", "lines", label, tuple(choices), tuple(panels))


def _choice(histories: Sequence[Dynamics]) -> list[Choice]:
    """The menu of tasks, if there are several."""
    names = tuple(history.task.name for history in histories)
    return [Choice("task", names)] if len(names) > 1 else []


def _key(histories: Sequence[Dynamics], history: Dynamics) -> list[str]:
    return [history.task.name] if len(histories) > 1 else []


def _series(part: pd.DataFrame, name: str, colour: int, metric: str) -> dict[str, Any]:
    x = [int(step) for step in part["step"]]
    return dict(name=name, colour=colour, control=False, x=x, **estimates(part, metric))


def _parts(histories: Sequence[Dynamics]) -> Chart:
    layers = [str(layer) for layer in dict.fromkeys(histories[0].parts_frame["layer"])]
    panels = []
    for history, layer in product(histories, layers):
        frame, series = history.parts_frame, []
        for place, (part, answer) in enumerate(
            (p, a) for p in PARTS for a in dict.fromkeys(frame["answer"])
        ):
            own = frame[(frame["layer"] == int(layer)) & (frame["part"] == part)]
            own = own[own["answer"] == answer]
            told = answer_name(answer, history.has_global)
            series.append(
                dict(
                    name=f"{part.replace('_', '-')} part to the {told}",
                    colour=place,
                    control=False,
                    x=[int(step) for step in own["step"]],
                    y=rounded(own["logits"]),
                    low=rounded(own["low"]),
                    high=rounded(own["high"]),
                )
            )
        key = [*_key(histories, history), layer]
        panels.append(dict(key=key, x="training step", y="logits added, nats", series=series))
    label = "Curves: the logits that each part of an MLP's output adds, against the training step."
    choices = (*_choice(histories), Choice("layer", tuple(layers)))
    return Chart("parts", "lines", label, choices, tuple(panels))


def _group(history: Dynamics, most: int) -> dict[str, Any]:
    settings = []
    for step in reversed(history.checkpoints):
        uncut = history.scores(step).frame
        for name in history.names_at(step):
            own = uncut if name == UNCUT else history.scores(step, name).frame
            base = None if name == UNCUT else uncut
            settings.append(prompts.Setting(f"step {step}, {name}", own, base, change=float(step)))
    return prompts.group(history.task.name, history.task.to_frame(), settings, most)


def recall_page(run: RecallRun) -> Page:
    """Summary, the probes' curves, the table of the last step and the configuration."""
    history = run.history
    columns = [name for name in history if name != "step" and history[name].dtype.kind in "fi"]
    sections = [
        Section("summary", "Summary", paragraphs(_recall_words(run))),
        Section("curves", "Over training", charts=(_recall_curves(history, columns),)),
        Section(
            "table",
            "Every step that was looked at",
            frame_table(history[["step", *columns]], "The probes, one row a step"),
        ),
        Section("provenance", "Where this comes from", provenance(_flat(run.config.to_json()))),
    ]
    title = f"Noisy in-context recall, seed {run.config.seed}"
    return Page(title, recall_answer(run), tuple(sections))


def _recall_words(run: RecallRun) -> list[str]:
    first, *others = str(run).splitlines()
    return [
        "A small transformer was trained on sequences in which a trigger is followed by the sequence's "
        "own target or, with probability alpha, by a noise token that is the same everywhere: the first "
        "is recall from the context, the second a global association.",
        f"{first[0].upper()}{first[1:]}.",
        *(f"{line.strip()[0].upper()}{' '.join(line.split())[1:]}." for line in others),
    ]


#: What a cut model's scores begin with, and how the others are told apart.
_SCORES = ("accuracy", "p_correct", "p_noise")
_OTHERS = {
    "margins, nats": ("margin",),
    "attention": ("attention", "previous", "induction"),
    "loss": ("loss",),
}


def _recall_curves(history: pd.DataFrame, columns: Sequence[str]) -> Chart:
    """One question a panel: the full model, each metric with an MLP cut in each way, and the probes."""
    panels = [_recall_panel(history, "the full model", [name for name in _SCORES if name in columns])]
    placed = set(_SCORES)
    layers = sorted({found[1] for name in columns if (found := _MLP.search(name))})
    for metric, layer in product(_SCORES, layers):
        cut = [name for name in columns if name.startswith(f"{metric}_mlp{layer}_")]
        placed |= set(cut)
        title = f"{metric.replace('_', ' ')}, MLP {layer} cut"
        panels.append(_recall_panel(history, title, [metric, *cut]))
    for family, starts in _OTHERS.items():
        own = [name for name in columns if name.startswith(starts) and name not in placed]
        placed |= set(own)
        panels += [_recall_panel(history, family, own)] if own else []
    left = [name for name in columns if name not in placed]
    panels += [_recall_panel(history, "other probes", left)] if left else []
    names = tuple(panel["key"][0] for panel in panels)
    label = "Curves: what the probes say, against the training step."
    return Chart("curves", "lines", label, (Choice("probe", names),), tuple(panels))


def _recall_panel(history: pd.DataFrame, family: str, columns: Sequence[str]) -> dict[str, Any]:
    steps = [int(step) for step in history["step"]]
    series = [
        dict(name=name.replace("_", " "), colour=place, control=False, x=steps, y=rounded(history[name]))
        for place, name in enumerate(columns)
    ]
    return dict(key=[family], x="training step", y=family, series=series)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the table of characters."""
    data = {name: value for name, value in config["data"].items() if name != "table"}
    return {**config, "data": data}
