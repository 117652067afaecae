"""`tl-truncate side-effects`: what cuts do to running text."""

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
    Seed,
)
from tl_truncate.cli.shared.parse import parse_cut
from tl_truncate.experiments.scoring.side_effects import side_effects
from tl_truncate.models import Backend
from tl_truncate.surgery.cut import Cuts


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
