"""`tl-truncate spectrum` and `sites`: what a model has that can be cut.

No prompt is run here, so that there is no size of a batch to choose, and no memory that it would save.
"""

import json
from typing import Annotated, Any

import pandas as pd
import typer
from rich.table import Table
from rich.text import Text

from tl_truncate.cli.shared.app import app, console, kind
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import ModelOptions
from tl_truncate.cli.shared.options import AsJson, Figures, Keeps, Out
from tl_truncate.cli.shared.parse import parse_keep
from tl_truncate.cli.shared.writing import check_figures, say_written, write_tables
from tl_truncate.weights.identity.provenance import versions
from tl_truncate.weights.locate import available, find_sites, locate, n_layers
from tl_truncate.weights.processing import processing
from tl_truncate.weights.site import MATRICES, Site
from tl_truncate.weights.spectra.spectrum import Spectrum, spectrum

_KEEPS = ["0.01", "0.1", "0.5"]
# Of weights alone: a product is nowhere like noise.
_NOISE = ["MarchenkoPastur()", "OutsideBulk()"]


@app.command("spectrum")
@kind
@grouped
def spectrum_command(
    *,
    source: ModelOptions,
    site: Annotated[str, typer.Option(help="Such as `blocks.3.mlp.W_out` or `blocks.3.attn.OV.5`.")],
    keep: Keeps = None,
    tokens: Annotated[int, typer.Option(help="Tokens that each direction writes.")] = 0,
    out: Out = None,
    figures: Figures = True,
    as_json: AsJson = False,
) -> None:
    """Shows the spectrum of one weight matrix, or of a head's circuit, and what some keeps keep of it.

    The picture that --out leaves shows what the last of the keeps keeps.

    Example: `tl-truncate spectrum --model demo --site blocks.28.mlp.W_out --keep 0.1 --tokens 5`
    """
    figures = figures and out is not None
    check_figures(figures, "plots")
    place = Site.parse(site)
    rules = [parse_keep(text) for text in keep or (_KEEPS if place.is_circuit else _KEEPS + _NOISE)]
    model = source.load()
    spec = spectrum(model, place)
    rows: list[dict[str, Any]] = [
        dict(keep=repr(rule), rank=len(spec.kept(rule)), energy=spec.energy(rule), gap=spec.gap(rule))
        for rule in rules
    ]
    directions = spec.tokens(model, tokens) if tokens else None
    data: dict[str, Any] = dict(site=site, shape=spec.shape, singular_values=spec.S.tolist())
    data.update(method=spec.method, keeps=rows, versions=versions())
    tables = {"table": pd.DataFrame(rows)}
    if directions is not None:
        data["tokens"] = directions.to_dict(orient="records")
        tables["tokens"] = directions
    written = [] if out is None else write_tables(out, tables, data)
    if figures and out is not None:
        from tl_truncate.plots import save
        from tl_truncate.plots import spectrum as draw

        save(draw(spec, rules[-1]), out / "spectrum.png")
        written.append("spectrum.png")
    if as_json:
        typer.echo(json.dumps(data, indent=2))
        return
    _show(spec, rows, directions)
    if out is not None:
        say_written(out, written)


def _show(spec: Spectrum, rows: list[dict[str, Any]], directions: pd.DataFrame | None) -> None:
    console.print(str(spec), markup=False)
    table = Table("keep", "rank", "energy kept", "gap / S_1")
    for row in rows:
        cells = (row["keep"], str(row["rank"]), f"{row['energy']:.3f}", f"{row['gap']:.1e}")
        table.add_row(*map(Text, cells))
    console.print(table)
    if directions is not None:
        for (component, sign), part in directions.groupby(["component", "sign"], sort=False):
            texts = " ".join(repr(text) for text in part["token"])
            console.print(f"{component} {'+' if sign > 0 else '-'}: {texts}", markup=False)


@app.command()
@kind
@grouped
def sites(*, source: ModelOptions, out: Out = None, as_json: AsJson = False) -> None:
    """Lists the weight matrices of a model that can be cut.

    Example: `tl-truncate sites --model demo`
    """
    model = source.load()
    found = find_sites(model, MATRICES)
    shapes = {str(site): list(locate(model, site).shape) for site in found}
    rows = [(site, n_in, n_out) for site, (n_in, n_out) in shapes.items()]
    table = pd.DataFrame(rows, columns=["site", "n_in", "n_out"])
    written = [] if out is None else write_tables(out, {"table": table}, shapes)
    if as_json:
        typer.echo(json.dumps(shapes, indent=2))
        return
    console.print(f"{n_layers(model)} blocks, weights: {processing(model)}")
    shown = Table("matrix", "layers", "shape")
    for matrix in available(model, found[0].layer):
        layers = [site.layer for site in found if site.matrix == matrix]
        n_in, n_out = shapes[str(next(site for site in found if site.matrix == matrix))]
        shown.add_row(matrix, f"{min(layers)} to {max(layers)}", f"{n_in} x {n_out}")
    console.print(shown)
    if out is not None:
        say_written(out, written)
