"""`tl-truncate search`: cuts chosen on half of the prompts and reported on the other half."""

import json
from pathlib import Path
from typing import Annotated, cast

import typer

from tl_truncate.cli.shared.app import (
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
from tl_truncate.cli.shared.options import (
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
from tl_truncate.cli.shared.tasks import check_task_name, make_task
from tl_truncate.experiments.search.judge import Combine, Objective
from tl_truncate.experiments.search.search import Method, search
from tl_truncate.models import Backend
from tl_truncate.weights.keep.defaults import KEEPS


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
