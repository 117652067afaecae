"""`tl-truncate evaluate`: a model on a task, uncut and cut."""

import json
from typing import Any

import pandas as pd
import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tl_truncate.cli.shared.app import app, console, kind
from tl_truncate.cli.shared.cuts import CutOptions
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import ModelOptions, PassOptions
from tl_truncate.cli.shared.options import AsJson, Out, TaskName, WithControls
from tl_truncate.cli.shared.tasks import PromptOptions, check_task_name
from tl_truncate.cli.shared.writing import say_written, write_tables
from tl_truncate.experiments.scoring.evaluate import Scores, evaluate
from tl_truncate.experiments.scoring.metrics import METRICS
from tl_truncate.surgery.controls import controls_of

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
    as_json: AsJson = False,
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
    options |= dict(progress=not as_json, **passes.to_arguments())
    scores = {"cut" if chosen else "uncut": evaluate(model, asked, chosen, **options)}
    if chosen and controls:
        options["baseline"] = scores["cut"].baseline
        for kind_of, placebo in controls_of(chosen, seed=prompts.seed).items():
            scores[_NAMES[kind_of]] = evaluate(model, asked, placebo, **options)
    first = next(iter(scores.values()))
    record = {name: each.to_json() for name, each in scores.items()}
    written = [] if out is None else write_tables(out, _tables(scores), record, first)
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    console.print(_scores_table(scores))
    if out is not None:
        say_written(out, written)


def _tables(scores: dict[str, Scores]) -> dict[str, pd.DataFrame]:
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


def _scores_table(scores: dict[str, Scores]) -> Table:
    first = next(iter(scores.values()))
    record = first.record
    table = Table(
        title=escape(
            f"{record.task}: {record.n_prompts} prompts, {record.model}, {record.weights} weights, "
            f"{record.bos} BOS"
        )
    )
    table.add_column("metric")
    if first.baseline is not None:
        table.add_column("uncut", justify="right")
    for name in scores:
        table.add_column(name, justify="right")
        if first.baseline is not None:
            table.add_column("change", justify="right")
    for metric in METRICS:
        cells: list[str] = [metric]
        if first.baseline is not None:
            cells.append(str(first.baseline.estimate(metric)))
        for each in scores.values():
            cells.append(str(each.estimate(metric)))
            if each.baseline is not None:
                cells.append(str(each.change(metric)))
        table.add_row(*map(Text, cells))
    return table
