"""`tl-truncate evaluate`: a model on a task, uncut and cut."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from tl_truncate.cli.shared.app import app, kind, say
from tl_truncate.cli.shared.cuts import CutOptions
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import ModelOptions, PassOptions
from tl_truncate.cli.shared.options import Out, TaskName, WithControls
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.cli.shared.tables import Column, say_table
from tl_truncate.cli.shared.tasks import PromptOptions, check_task_name
from tl_truncate.cli.shared.writing import say_written, write_tables
from tl_truncate.experiments.scoring.drawn import (
    VERDICTS,
    DrawnScores,
    towards,
    verdict,
    with_drawn,
)
from tl_truncate.experiments.scoring.evaluate import Scores, evaluate
from tl_truncate.experiments.scoring.metrics import metrics_of
from tl_truncate.markup import interval
from tl_truncate.surgery.controls import controls_of, draws_for

_NAMES = {
    "RandomSubspace": "random subspace",
    "NormMatched": "norm matched",
    "ExchangedTokens": "exchanged tokens",
}


@app.command("evaluate")
@kind
@grouped
def evaluate_command(
    *,
    source: ModelOptions,
    task: TaskName = "ioi",
    cutting: CutOptions,
    controls: WithControls = False,
    prompts: PromptOptions,
    passes: PassOptions,
    out: Out = None,
    printed: PrintOptions,
) -> None:
    """Scores a model on a task, uncut and with all the cuts together.

    Example: `tl-truncate evaluate --model demo --task ioi --cut blocks.27.mlp.W_in=0.01`

    KEEP is a rank (8), a fraction (0.1), or a rule (`Energy(0.95)`, `DropTop(4)`, `Band(2, 8)`).
    """
    chosen = cutting.read()
    check_task_name(task)
    model = source.load()
    asked = prompts.make(task, model)
    options: dict[str, Any] = dict(prepend_bos=prompts.prepend_bos, seed=prompts.seed)
    options |= dict(progress=printed.for_people, **passes.to_arguments())
    first = evaluate(model, asked, chosen, **options)
    drawn: dict[str, DrawnScores] = {}
    if chosen and controls:
        options["baseline"] = first.baseline
        draws = draws_for(len({cut.site for cut in chosen}))
        drawn = {
            kind_of: DrawnScores(tuple(evaluate(model, asked, each, **options) for each in placebos))
            for kind_of, placebos in controls_of(model, chosen, seed=prompts.seed, draws=draws).items()
        }
    first = with_drawn(first, drawn)
    scores: dict[str, Scores | DrawnScores] = {"cut" if chosen else "uncut": first}
    scores |= {_NAMES[kind_of]: each for kind_of, each in drawn.items()}
    record = {name: each.to_json() for name, each in scores.items()}
    written = [] if out is None else write_tables(out, _tables(scores), record, first)
    if printed.print(record, _tables(scores)["table"]):
        return
    _say_scores(scores)
    for kind_of, control in drawn.items():
        say(_verdict(_NAMES[kind_of], first, control))
    if out is not None:
        say_written(out, written)


def _verdict(name: str, cut: Scores, control: DrawnScores) -> str:
    """Whether the cut does more than its control."""
    found = control.beaten_by(cut, "p_in_context")
    return (
        f"{name}: the mean of {len(control.draws)} draws, whose p_in_context has a spread of "
        f"{control.spread('p_in_context'):.3f}. The cut less one draw: {interval(found, signed=True)}: "
        f"{VERDICTS[towards(verdict(found, found.p), cut.change('p_in_context'))]}."
    )


def _tables(scores: Mapping[str, Scores | DrawnScores]) -> dict[str, pd.DataFrame]:
    """The summaries, and what each prompt was answered with, of all that was scored."""
    uncut = next(iter(scores.values())).baseline
    frames = {name: each.frame for name, each in scores.items()}
    return {
        "table": _stacked({name: each.summary().reset_index() for name, each in scores.items()}),
        "prompts": _stacked(frames if uncut is None else {"uncut": uncut.frame, **frames}),
    }


def _stacked(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    whole = pd.concat(tables, names=["scores"])
    return whole.reset_index(level="scores").reset_index(drop=True)


def _say_scores(scores: Mapping[str, Scores | DrawnScores]) -> None:
    """The metrics uncut and cut, and the change beside that of the controls."""
    (name, first), *controls = scores.items()
    record = first.record if isinstance(first, Scores) else first.draws[0].record
    metrics = metrics_of(first)
    columns = [Column("metric", metrics, left=True)]
    if first.baseline is not None:
        uncut = first.baseline
        columns.append(Column("uncut", [str(uncut.estimate(metric)) for metric in metrics]))
    # The change says what the cut value would say again.
    told = [str(first.estimate(metric)) for metric in metrics]
    columns.append(Column(name, told, drop=int(first.baseline is not None)))
    if first.baseline is not None:
        columns.append(_changes("change", first))
    say_table(
        columns,
        title=f"{record.task}: {record.n_prompts} prompts, {record.model}, {record.weights} weights, "
        f"{record.bos} BOS",
    )
    if controls:
        columns = [Column("change of", metrics, left=True), _changes(name, first)]
        say_table([*columns, *(_changes(each, drawn) for each, drawn in controls)])


def _changes(name: str, scores: Scores | DrawnScores) -> Column:
    return Column(name, [str(scores.change(metric)) for metric in metrics_of(scores)])
