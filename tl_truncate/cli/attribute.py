"""`tl-truncate attribute`: what every cut is worth, to first order."""

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
    ModelName,
    app,
    console,
    kind,
    load,
)
from tl_truncate.cli.shared.options import (
    Bos,
    Keeps,
    Layers,
    Matrices,
    Prompts,
    Seed,
    SiteNames,
    check_matrices,
    read_keeps,
    read_layers,
    read_sites,
)
from tl_truncate.cli.shared.tasks import check_task_name, make_task
from tl_truncate.experiments.screening.attribute import Differentiable, attribute
from tl_truncate.models import Backend
from tl_truncate.weights.files import replacing


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
