"""`tl-truncate evaluate`: a model on a task, uncut and cut."""

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table

from tl_truncate.cli.shared.app import (
    AsJson,
    BackendName,
    Checkpoint,
    Device,
    Dtype,
    ModelName,
    app,
    console,
    escape,
    kind,
    load,
)
from tl_truncate.cli.shared.parse import parse_cut
from tl_truncate.cli.shared.tasks import check_task_name, make_task
from tl_truncate.experiments.scoring.evaluate import Scores, evaluate
from tl_truncate.experiments.scoring.metrics import METRICS
from tl_truncate.models import Backend
from tl_truncate.surgery.controls import controls_of
from tl_truncate.surgery.cut import Cuts

_NAMES = {
    "RandomSubspace": "random subspace",
    "NormMatched": "norm matched",
    "ExchangedTokens": "exchanged tokens",
}


@app.command("evaluate")
@kind
def evaluate_command(
    model: ModelName,
    task: Annotated[str, typer.Option(help="A name such as `ioi` or `facts`, or a JSON file.")] = "ioi",
    cut: Annotated[
        list[str] | None,
        typer.Option(help="SITE=KEEP, such as `blocks.27.mlp.W_in=0.01`; may be repeated."),
    ] = None,
    cuts: Annotated[Path | None, typer.Option(help="A JSON file written by Cuts.save.")] = None,
    controls: Annotated[bool, typer.Option(help="Score random and norm-matched controls too.")] = False,
    n: Annotated[int | None, typer.Option(help="Prompts (100 of ioi, all facts).")] = None,
    seed: Annotated[int, typer.Option(help="Of prompts, controls and bootstrap.")] = 0,
    prepend_bos: Annotated[
        bool | None,
        typer.Option("--prepend-bos/--no-prepend-bos", help="By default as the model has it."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Prompts in a pass.")] = 32,
    backend: BackendName = "bridge",
    checkpoint: Checkpoint = None,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Scores a model on a task, uncut and with all the cuts together.

    Example: `tl-truncate evaluate --model demo --task ioi --cut blocks.27.mlp.W_in=0.01`

    KEEP is a rank (8), a fraction (0.1), or a rule (`Energy(0.95)`, `DropTop(4)`, `Band(2, 8)`).
    """
    chosen = Cuts([parse_cut(text) for text in cut or []], Cuts.load(cuts) if cuts else [])
    check_task_name(task)
    loaded = load(
        model, backend=cast(Backend, backend), checkpoint=checkpoint, dtype=dtype, device=device
    )
    prompts = make_task(task, n, seed, loaded)
    options: dict[str, Any] = dict(prepend_bos=prepend_bos, batch_size=batch_size, seed=seed)
    options["progress"] = not as_json
    scores = {"cut" if chosen else "uncut": evaluate(loaded, prompts, chosen, **options)}
    if chosen and controls:
        options["baseline"] = scores["cut"].baseline
        for kind_of, placebo in controls_of(chosen, seed=seed).items():
            scores[_NAMES[kind_of]] = evaluate(loaded, prompts, placebo, **options)
    if as_json:
        typer.echo(json.dumps({name: each.to_json() for name, each in scores.items()}, indent=2))
    else:
        console.print(_scores_table(scores))


def _scores_table(scores: dict[str, Scores]) -> Table:
    first = next(iter(scores.values()))
    record = first.record
    table = Table(
        title=escape(
            f"{record.task}: {record.n_prompts} prompts, {record.model}, {record.weights} weights, "
            f"{'with' if record.prepend_bos else 'without'} BOS"
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
        table.add_row(*map(escape, cells))
    return table
