"""`tl-truncate search`, `attribute` and `side-effects`."""

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich import box
from rich.table import Table

from tl_truncate.cli.app import (
    AsJson,
    BackendName,
    Checkpoint,
    ModelName,
    app,
    console,
    escape,
    kind,
    load,
)
from tl_truncate.cli.options import (
    Bos,
    Keeps,
    Layers,
    Matrices,
    MaxMemory,
    Prompts,
    Seed,
    SiteNames,
    TaskNames,
    check_matrices,
    in_bytes,
    read_keeps,
    read_layers,
    read_sites,
)
from tl_truncate.cli.parse import parse_cut
from tl_truncate.cli.tasks import check_task_name, make_task
from tl_truncate.experiments.attribute import Differentiable, attribute
from tl_truncate.experiments.judge import Combine, Objective
from tl_truncate.experiments.search import Method, search
from tl_truncate.experiments.side_effects import side_effects
from tl_truncate.experiments.sweep import KEEPS
from tl_truncate.models import Backend
from tl_truncate.surgery.cut import Cuts
from tl_truncate.weights.files import replacing


@app.command("search")
@kind
def search_command(
    model: ModelName,
    task: TaskNames = None,
    site: SiteNames = None,
    matrices: Matrices = "mlp",
    layers: Layers = None,
    keep: Keeps = None,
    objective: Annotated[str, typer.Option(help="logit_diff, accuracy or p_in_context.")] = "logit_diff",
    combine: Annotated[str, typer.Option(help="Of several tasks: mean or worst.")] = "mean",
    method: Annotated[str, typer.Option(help="halving, or laser for the published search.")] = "halving",
    greedy: Annotated[int, typer.Option(help="Most cuts in the composition.")] = 1,
    budget: Annotated[
        float | None, typer.Option(help="Most settings' worth of work for each cut added.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A folder; an interrupted search goes on.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the search in the folder.")] = False,
    n: Prompts = None,
    seed: Seed = 0,
    prepend_bos: Bos = None,
    max_memory: MaxMemory = None,
    backend: BackendName = "bridge",
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Finds cuts that help on half of the prompts, and reports them on the other half.

    Example: `tl-truncate search --model demo --task ioi --greedy 3 --out searches/ioi`
    """
    names = [check_task_name(name) for name in task or ["ioi"]]
    chosen, rules, places = check_matrices(matrices), read_keeps(keep, KEEPS), read_layers(layers)
    if out is not None and not resume and out.exists() and any(out.iterdir()):
        raise ValueError(f"--out must be new or empty without --resume, got {out}.")
    loaded = load(model, backend=cast(Backend, backend), checkpoint=checkpoint)
    found = search(
        loaded,
        [make_task(name, n, seed, loaded) for name in names],
        sites=read_sites(loaded, site, chosen, places),
        keeps=rules,
        objective=cast(Objective, objective),
        combine=cast(Combine, combine),
        method=cast(Method, method),
        greedy=greedy,
        budget=budget,
        run_dir=out,
        prepend_bos=prepend_bos,
        max_memory=in_bytes(max_memory),
        seed=seed,
    )
    if out is not None:
        found.cuts.save(out / "cuts.json")
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        console.print(escape(str(found)), soft_wrap=True)


@app.command("attribute")
@kind
def attribute_command(
    model: ModelName,
    task: Annotated[str, typer.Option(help="A name such as `ioi`, or a JSON file.")] = "ioi",
    site: SiteNames = None,
    matrices: Matrices = "mlp",
    layers: Layers = None,
    keep: Keeps = None,
    metric: Annotated[str, typer.Option(help="logit_diff, p_in_context or p_global.")] = "logit_diff",
    top: Annotated[int, typer.Option(help="Rows to show.")] = 10,
    out: Annotated[Path | None, typer.Option(help="A folder for the tables and the picture.")] = None,
    n: Prompts = None,
    seed: Seed = 0,
    prepend_bos: Bos = None,
    backend: BackendName = "bridge",
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Predicts the effect of every cut, to first order, from one pass there and back.

    Example: `tl-truncate attribute --model demo --task ioi --keep 0.9 --keep 0.95 --out screens/ioi`
    """
    check_task_name(task)
    chosen, places = check_matrices(matrices), read_layers(layers)
    rules = read_keeps(keep, (0.5, 0.75, 0.9, 0.95))
    loaded = load(model, backend=cast(Backend, backend), checkpoint=checkpoint)
    screen = attribute(
        loaded,
        make_task(task, n, seed, loaded),
        sites=read_sites(loaded, site, chosen, places),
        metric=cast(Differentiable, metric),
        prepend_bos=prepend_bos,
        seed=seed,
    )
    predicted = screen.predict(list(rules))
    if out is not None:
        _write_screen(screen, predicted, out)
    if as_json:
        data = dict(record=screen.record.to_json(), metric=metric)
        data["predicted"] = predicted.astype(object).where(predicted.notna(), None).to_dict("records")
        typer.echo(json.dumps(data, indent=2))
        return
    table = Table(
        title=f"{screen.record.task}: predicted change of {metric}, a first-order estimate",
        box=box.SIMPLE_HEAD,
    )
    for column in ("site", "keep", "rank", "predicted change"):
        table.add_column(column, justify="left" if column == "site" else "right", no_wrap=True)
    for row in predicted.head(top).itertuples():
        table.add_row(row.site, str(row.keep), str(row.rank), f"{row.predicted_change:+.3f}")
    console.print(table)
    console.print("A small prediction is no promise: confirm with `tl-truncate sweep`.")


def _write_screen(screen: Any, predicted: Any, out: Path) -> None:
    from tl_truncate.plots import attribution, save

    out.mkdir(parents=True, exist_ok=True)
    for name, frame in (("components", screen.frame), ("predicted", predicted)):
        with replacing(out / f"{name}.csv") as path:
            frame.to_csv(path, index=False)
    with replacing(out / "record.json") as path:
        path.write_text(json.dumps(screen.record.to_json(), indent=2) + "\n")
    save(attribution(screen), out / "attribution.png")


@app.command("side-effects")
@kind
def side_effects_command(
    model: ModelName,
    cut: Annotated[
        list[str] | None,
        typer.Option(help="SITE=KEEP, such as `blocks.27.mlp.W_in=0.01`; may be repeated."),
    ] = None,
    cuts: Annotated[Path | None, typer.Option(help="A JSON file written by Cuts.save.")] = None,
    text: Annotated[
        Path | None, typer.Option(help="Passages, separated by empty lines; a sample by default.")
    ] = None,
    seed: Seed = 0,
    prepend_bos: Bos = None,
    backend: BackendName = "bridge",
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Says what cuts do to running text: perplexity, divergence and agreement.

    Example: `tl-truncate side-effects --model demo --cut blocks.27.mlp.W_out=0.1`
    """
    chosen = Cuts([parse_cut(each) for each in cut or []], Cuts.load(cuts) if cuts else [])
    if not chosen:
        raise ValueError(
            "There must be at least one cut, got none. Give --cut SITE=KEEP or --cuts FILE."
        )
    passages = [] if text is None else text.read_text().split("\n\n")
    texts = None if text is None else [each.strip() for each in passages if each.strip()]
    loaded = load(model, backend=cast(Backend, backend), checkpoint=checkpoint)
    found = side_effects(loaded, chosen, texts, prepend_bos=prepend_bos, seed=seed, progress=not as_json)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        console.print(escape(str(found)), soft_wrap=True)
