"""`tl-truncate spectrum` and `sites`: what a model has that can be cut.

No prompt is run here, so that there is no size of a batch to choose, and no memory that it would save.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import pandas as pd
import typer

from tl_truncate.checks import natural
from tl_truncate.cli.shared.app import app, kind, say
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import ModelOptions
from tl_truncate.cli.shared.options import Figures, Keeps, Out
from tl_truncate.cli.shared.parse import parse_keep
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.cli.shared.tables import Column, say_table
from tl_truncate.cli.shared.writing import check_figures, say_written, write_tables
from tl_truncate.weights.identity.provenance import versions
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.locate import available, find_sites, locate, n_layers
from tl_truncate.weights.processing import processing
from tl_truncate.weights.site import MATRICES, Site
from tl_truncate.weights.spectra.spectrum import Spectrum, spectrum
from tl_truncate.weights.spoken import short_keep

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
    printed: PrintOptions,
) -> None:
    """Shows the spectrum of one weight matrix, or of a head's circuit, and what some keeps keep of it.

    The picture that --out leaves shows what the last of the keeps keeps.

    Example: `tl-truncate spectrum --model demo --site blocks.28.mlp.W_out --keep 0.1 --tokens 5`
    """
    figures = figures and out is not None
    check_figures(figures, "plots")
    place = Site.parse(site)
    natural("--tokens", tokens)
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
    if printed.print(data, tables["table"]):
        return
    _show(spec, list(zip(rules, rows, strict=True)), directions)
    if out is not None:
        say_written(out, written)


def _show(
    spec: Spectrum, rows: Sequence[tuple[Keep, dict[str, Any]]], directions: pd.DataFrame | None
) -> None:
    say(str(spec))
    say_table(
        [
            Column("kept", [short_keep(rule) for rule, _ in rows], left=True),
            Column("rank", [str(row["rank"]) for _, row in rows]),
            Column("energy kept", [f"{row['energy']:.3f}" for _, row in rows]),
            Column("gap / S_1", [f"{row['gap']:.1e}" for _, row in rows], drop=1),
        ]
    )
    if directions is not None:
        for (component, sign), part in directions.groupby(["component", "sign"], sort=False):
            texts = " ".join(repr(text) for text in part["token"])
            say(f"{component} {'+' if sign > 0 else '-'}: {texts}")


@app.command()
@kind
@grouped
def sites(*, source: ModelOptions, out: Out = None, printed: PrintOptions) -> None:
    """Lists the weight matrices of a model that can be cut.

    Example: `tl-truncate sites --model demo`
    """
    model = source.load()
    found = find_sites(model, MATRICES)
    shapes = {str(site): list(locate(model, site).shape) for site in found}
    rows = [(site, n_in, n_out) for site, (n_in, n_out) in shapes.items()]
    table = pd.DataFrame(rows, columns=["site", "n_in", "n_out"])
    written = [] if out is None else write_tables(out, {"table": table}, shapes)
    if printed.print(shapes, table):
        return
    say(f"{n_layers(model)} blocks, weights: {processing(model)}")
    lines = []
    for matrix in available(model, found[0].layer):
        layers = [site.layer for site in found if site.matrix == matrix]
        n_in, n_out = shapes[str(next(site for site in found if site.matrix == matrix))]
        lines.append((matrix, f"{min(layers)} to {max(layers)}", f"{n_in} x {n_out}"))
    cells = list(zip(*lines, strict=True))
    say_table(
        [Column("matrix", cells[0], left=True), Column("layers", cells[1]), Column("shape", cells[2])]
    )
    if out is not None:
        say_written(out, written)
