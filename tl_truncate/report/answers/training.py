"""The answers of runs over training: both answers of a task, and what a recall model has learned."""

from collections.abc import Mapping, Sequence

import pandas as pd

from tl_truncate.experiments.scoring.metrics import PROBABILITIES, label_of
from tl_truncate.experiments.training.history import CUT, History
from tl_truncate.experiments.training.reading import UNCUT
from tl_truncate.experiments.training.result import Dynamics
from tl_truncate.report.answers.verdicts import (
    NOT_READ,
    NOT_SCORED,
    chance,
    counted,
    furthest,
    moves,
    number_in,
    q_number,
)
from tl_truncate.report.page import Answer, Number
from tl_truncate.report.pictures.curves import Curve, Panel, curves
from tl_truncate.statistics import shown_in
from tl_truncate.surgery.spoken import said_kind
from tl_truncate.toys.recall.train import NOISE_LEARNT, RECALL_LEARNT, RecallRun

#: Of what falls and what rises: the colours of both answers, wherever they are drawn.
_COLOURS = {"p_global": 0, "p_in_context": 1}
_DROPPED = "dropped"


def dynamics_answer(history: Dynamics) -> Answer:
    """Both answers over training, of the uncut model and with the cut that does most in the end.

    Args:
        history: of one task, with some checkpoint.
    """
    frame, last = history.frame, history.checkpoints[-1]
    shown = [metric for metric in PROBABILITIES if metric in frame and frame[metric].notna().any()]
    table = frame[frame["step"] == last].set_index("cut")
    cuts = history.names_at(last)[1:]
    metric = shown[0]
    goal = label_of(metric, history.has_global)
    uncut = table.loc[UNCUT]
    both = " and ".join(
        f"{label_of(each, history.has_global).told} is {shown_in(uncut, each)}" for each in shown
    )
    sentence = f"At step {last:,} of training, {both}"
    numbers = [
        number_in(uncut, each, f"uncut: {label_of(each, history.has_global).short}") for each in shown
    ]
    best = None
    if cuts:
        kinds = _told(history).kinds
        own = [name for name in cuts if kinds[name] == CUT] or cuts
        best = max(own, key=lambda name: abs(float(table.loc[name, f"{metric}_change"])))
        row = table.loc[best]
        change = float(row[f"{metric}_change"])
        q = float(row[f"{metric}_change_q"])
        sentence += (
            f"; {best} {moves(change)} {goal.told} by {shown_in(row, f'{metric}_change', signed=True)}, "
            f"{chance(q)} {among(history, best, metric)}"
        )
        numbers = [
            numbers[0],
            number_in(row, f"{metric}_change", f"change by {best}", signed=True),
            _control(table.loc[_beside(history, best, cuts)], f"{metric}_change", change),
            NOT_READ,
            q_number(q, among(history, best, metric)),
        ]
    else:
        numbers.append(Number("checkpoints", str(len(history.readings)), f"of {len(history.asked)}"))
    lines = []
    for name in [UNCUT, *([] if best is None else [best])]:
        own = frame[frame["cut"] == name]
        for each in shown:
            told = (
                label_of(each, history.has_global).short
                if name == UNCUT
                else f"{label_of(each, history.has_global).short}, cut"
            )
            lines.append(_curve(own, each, told, _COLOURS[each], dashed=name != UNCUT))
    label = "Curves: both answers' probabilities against the training step. All metrics are below."
    caption = (
        "Solid: the uncut model"
        + ("" if best is None else f"; dashed: {best}")
        + ". Bands are 95% intervals."
    )
    panel = Panel("probability of each answer", lines)
    return Answer(f"{sentence}.", tuple(numbers), curves([panel], label, "training step"), caption)


def among(history: Dynamics, name: str, metric: str) -> str:
    """What the q of a name is among: the changes of all cuts, or of its kind of control, at all steps.

    Args:
        history: of one task.
        name: of some cuts.
        metric: that changes.
    """
    kinds, frame = _told(history).kinds, history.frame
    own = [each for each, kind in kinds.items() if kind == kinds[name] and each != UNCUT]
    changes = int(frame.loc[frame["cut"].isin(own), f"{metric}_change_q"].notna().sum())
    what = CUT if kinds[name] == CUT else f"{said_kind(kinds[name])} control"
    return f"among {counted(changes, 'change')} by {counted(len(own), what)}"


def _told(history: Dynamics) -> History:
    (only,) = history.histories.values()
    return only


def _beside(history: Dynamics, name: str, there: Sequence[str]) -> list[str]:
    """The controls of one cut that are there: as much of the same matrices, at random."""
    return [each for each in _told(history).controls_of(name) if each in there]


def _control(rows: pd.DataFrame, column: str, change: float) -> Number:
    """Of a cut's controls the one that goes furthest to where the cut goes."""
    if rows.empty:
        return NOT_SCORED
    name = furthest(rows[column], change)
    draws = counted(int(rows["draws"][name]), "draw")
    return Number("its control", f"{float(rows[column][name]):+.3f}", f"{name}, {draws}")


def _curve(own: pd.DataFrame, metric: str, name: str, colour: int, *, dashed: bool) -> Curve:
    steps, mean, low, high = (
        own[column].astype(float).tolist()
        for column in ("step", metric, f"{metric}_low", f"{metric}_high")
    )
    return Curve(name, steps, mean, low, high, colour, dashed)


def recall_answer(run: RecallRun) -> Answer:
    """What the model has learned, when, and what is left without its last MLP."""
    history, top = run.history, run.config.n_layers - 1
    last = history.iloc[-1]
    correct, dropped = (f"{name}_mlp{top}_{_DROPPED}" for name in ("p_correct", "p_noise"))
    noise, recall = (_when(step) for step in (run.noise_learnt, run.recall_learnt))
    sentence = (
        f"The noise is learned {noise}, recall from the context {recall}; without its last MLP the "
        f"model gives the correct token probability {last[correct]:.3f} in place of "
        f"{last['p_correct']:.3f}, and the noise token {last[dropped]:.3f} in place of "
        f"{last['p_noise']:.3f}."
    )
    numbers = (
        Number("recall learned at step", _step(run.recall_learnt), f"accuracy above {RECALL_LEARNT}"),
        Number("noise learned at step", _step(run.noise_learnt), f"p(noise) above {NOISE_LEARNT}"),
        Number("accuracy at the end", f"{last['accuracy']:.3f}", f"step {int(last['step']):,}"),
        Number("p(noise) at the end", f"{last['p_noise']:.3f}", "uncut"),
        Number("p(noise), last MLP dropped", f"{last[dropped]:.3f}", "one model, no interval"),
    )
    panels = [
        Panel(
            question,
            [_of(history, column, name, place) for place, (column, name) in enumerate(lines.items())],
        )
        for question, lines in _questions(top).items()
        if set(lines) <= set(history)
    ]
    label = "Small curves against the training step, a question each. Every probe is below."
    return Answer(sentence, numbers, curves(panels, label, "training step"), "")


def _questions(top: int) -> dict[str, Mapping[str, str]]:
    """What is asked of a recall model, each with the probes that answer it."""
    return {
        "Is the noise said?": {"p_noise": "uncut", f"p_noise_mlp{top}_{_DROPPED}": "no last MLP"},
        "Is the answer recalled?": {
            "p_correct": "uncut",
            f"p_correct_mlp{top}_{_DROPPED}": "no last MLP",
        },
        "Does the first MLP matter?": {
            "p_correct": "uncut",
            f"p_correct_mlp0_{_DROPPED}": "no first MLP",
        },
        "Which MLP says the noise?": {
            "margin_ff0": "first",
            "margin_ff1": "last",
            "margin_ff0_ff1": "both in turn",
        },
        "Where do triggers look?": {
            "attention_noise": "at the noise",
            "attention_correct": "at the answer",
        },
        "Is there an induction head?": {"previous_token": "one back", "induction": "induction"},
    }


def _of(history: pd.DataFrame, column: str, name: str, colour: int) -> Curve:
    return Curve(
        name,
        history["step"].astype(float).tolist(),
        history[column].astype(float).tolist(),
        colour=colour,
    )


def _when(step: int | None) -> str:
    return "at no step" if step is None else f"by step {step:,}"


def _step(step: int | None) -> str:
    return "never" if step is None else f"{step:,}"
