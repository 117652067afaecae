"""`tl-truncate spectrum` and `sites`: what a model has that can be cut."""

import json
from typing import Annotated, Any, cast

import typer
from rich.table import Table

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
from tl_truncate.cli.shared.parse import parse_keep
from tl_truncate.models import Backend
from tl_truncate.weights.locate import available, find_sites, locate, n_layers
from tl_truncate.weights.processing import processing
from tl_truncate.weights.provenance import versions
from tl_truncate.weights.site import MATRICES
from tl_truncate.weights.spectrum import spectrum


@app.command("spectrum")
@kind
def spectrum_command(
    model: ModelName,
    site: Annotated[str, typer.Option(help="Such as `blocks.3.mlp.W_out`.")],
    keep: Annotated[
        list[str] | None, typer.Option(help="Show what these keep; may be repeated.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens that each direction writes.")] = 0,
    backend: BackendName = "bridge",
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Shows the spectrum of one weight matrix.

    Example: `tl-truncate spectrum --model demo --site blocks.28.mlp.W_out --keep 0.1 --tokens 5`
    """
    rules = [parse_keep(text) for text in keep or ["0.01", "0.1", "0.5", "MarchenkoPastur()"]]
    loaded = load(model, backend=cast(Backend, backend), checkpoint=checkpoint)
    spec = spectrum(loaded, site)
    rows: list[dict[str, Any]] = [
        dict(keep=repr(rule), rank=len(spec.kept(rule)), energy=spec.energy(rule), gap=spec.gap(rule))
        for rule in rules
    ]
    written = spec.tokens(loaded, tokens) if tokens else None
    if as_json:
        data: dict[str, Any] = dict(site=site, shape=spec.shape, singular_values=spec.S.tolist())
        data.update(method=spec.method, keeps=rows, versions=versions())
        if written is not None:
            data["tokens"] = written.to_dict(orient="records")
        typer.echo(json.dumps(data, indent=2))
        return
    console.print(escape(str(spec)))
    table = Table("keep", "rank", "energy kept", "gap / S_1")
    for row in rows:
        table.add_row(row["keep"], str(row["rank"]), f"{row['energy']:.3f}", f"{row['gap']:.1e}")
    console.print(table)
    if written is not None:
        for (component, sign), part in written.groupby(["component", "sign"], sort=False):
            texts = " ".join(repr(text) for text in part["token"])
            console.print(f"{component} {'+' if sign > 0 else '-'}: {escape(texts)}")


@app.command()
@kind
def sites(
    model: ModelName,
    backend: BackendName = "bridge",
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Lists the weight matrices of a model that can be cut.

    Example: `tl-truncate sites --model demo`
    """
    loaded = load(model, backend=cast(Backend, backend), checkpoint=checkpoint)
    found = find_sites(loaded, MATRICES)
    if as_json:
        shapes = {str(site): list(locate(loaded, site).weight().shape) for site in found}
        typer.echo(json.dumps(shapes, indent=2))
        return
    console.print(f"{n_layers(loaded)} blocks, weights: {processing(loaded)}")
    table = Table("matrix", "layers", "shape")
    for matrix in available(loaded, found[0].layer):
        layers = [site.layer for site in found if site.matrix == matrix]
        first = next(site for site in found if site.matrix == matrix)
        n_in, n_out = locate(loaded, first).weight().shape
        table.add_row(matrix, f"{min(layers)} to {max(layers)}", f"{n_in} x {n_out}")
    console.print(table)
