"""`tl-truncate sweep`: every cut of a grid, each alone."""

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich import box
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
from tl_truncate.cli.shared.options import (
    BatchSize,
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
from tl_truncate.experiments.sweep.grid import Control
from tl_truncate.experiments.sweep.result import SweepResult
from tl_truncate.experiments.sweep.sweep import sweep
from tl_truncate.models import Backend
from tl_truncate.weights.keep.defaults import KEEPS

_SHOWN = 10


@app.command("sweep")
@kind
def sweep_command(
    model: ModelName,
    out: Annotated[Path, typer.Option(help="The run folder.")],
    task: TaskNames = None,
    site: SiteNames = None,
    matrices: Matrices = "mlp",
    layers: Layers = None,
    keep: Keeps = None,
    controls: Annotated[bool, typer.Option(help="Score random and norm-matched controls too.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder.")] = False,
    n: Prompts = None,
    seed: Seed = 0,
    prepend_bos: Bos = None,
    batch_size: BatchSize = 64,
    max_memory: MaxMemory = None,
    backend: BackendName = "bridge",
    checkpoint: Checkpoint = None,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Scores every cut of a grid of sites and keeps, each alone; can be stopped and resumed.

    Example: `tl-truncate sweep --model demo --task ioi --n 60 --out runs/ioi`

    Writes the run folder with table.csv and heatmap.png in it.
    """
    names = [check_task_name(name) for name in task or ["ioi"]]
    chosen, rules, places = check_matrices(matrices), read_keeps(keep, KEEPS), read_layers(layers)
    loaded = load(
        model, backend=cast(Backend, backend), checkpoint=checkpoint, dtype=dtype, device=device
    )
    kinds: tuple[Control, ...] = ("random_subspace", "norm_matched") if controls else ()
    result = sweep(
        loaded,
        [make_task(name, n, seed, loaded) for name in names],
        sites=read_sites(loaded, site, chosen, places),
        keeps=rules,
        controls=kinds,
        run_dir=out / "run",
        resume=resume,
        prepend_bos=prepend_bos,
        batch_size=batch_size,
        max_memory=in_bytes(max_memory),
        seed=seed,
    )
    from tl_truncate.plots import heatmap, save
    from tl_truncate.weights.files import replacing

    with replacing(out / "table.csv") as path:
        result.frame.to_csv(path, index=False)
    pictures = []
    # Single heads have no place in a picture of whole matrices.
    for place, each in enumerate(result.tasks if result.frame["head"].isna().any() else ()):
        name = f"heatmap{'' if place == 0 else f'-{each.name}'}.png"
        save(heatmap(result, task=each.name), out / name)
        pictures.append(name)
    if as_json:
        typer.echo(json.dumps(result.frame.to_dict(orient="records"), indent=2))
        return
    for each in result.tasks:
        console.print(_largest(result, each.name))
    console.print(
        "Rows are picked by looking at these prompts: test a pick on prompts of its own, as "
        f"`tl-truncate search` does.\nWritten: {', '.join([f'{out}/run', 'table.csv', *pictures])}"
    )


def _largest(result: SweepResult, task: str) -> Table:
    """The cuts that raise the in-context answer most."""
    frame = result.frame[(result.frame["task"] == task) & (result.frame["kind"] == "Cut")]
    base = result.baselines[task]
    table = Table(
        title=escape(
            f"{task}: uncut p(in-context) {base.p_in_context}, p(global) {base.p_global}; largest rises"
        ),
        box=box.SIMPLE_HEAD,
    )
    for column in ("site", "keep", "rank", "p(in-context)", "p(global)"):
        table.add_column(column, justify="left" if column == "site" else "right", no_wrap=True)
    for row in frame.nlargest(_SHOWN, "p_in_context_change").itertuples():
        changes = [_change(row, metric) for metric in ("p_in_context", "p_global")]
        table.add_row(row.site, str(row.keep), str(row.rank), *map(escape, changes))
    return table


def _change(row: Any, metric: str) -> str:
    value, low, high = (getattr(row, f"{metric}_change{end}") for end in ("", "_low", "_high"))
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
