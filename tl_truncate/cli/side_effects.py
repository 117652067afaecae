"""`tl-truncate side-effects`: what cuts do to running text."""

from pathlib import Path
from typing import Annotated

import typer

from tl_truncate.cli.shared.app import app, kind, say
from tl_truncate.cli.shared.cuts import CutOptions
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import ModelOptions, PassOptions
from tl_truncate.cli.shared.options import PATH, Bos, Out, Seed, ShardText
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.cli.shared.writing import say_shard, say_written, write_tables
from tl_truncate.corpora.passages import read_passages
from tl_truncate.experiments.scoring.side_effects import side_effects
from tl_truncate.runs.shards import as_pair, as_shard

# As many as the library takes: passages are long, and their logits are held at all positions.
_ALONE = PassOptions(batch_size=1)


@app.command("side-effects")
@kind
@grouped
def side_effects_command(
    *,
    source: ModelOptions,
    cutting: CutOptions,
    text: Annotated[
        Path | None,
        typer.Option(help="A text file, empty lines between passages; a sample by default.", **PATH),
    ] = None,
    seed: Seed = 0,
    prepend_bos: Bos = None,
    passes: PassOptions = _ALONE,
    out: Out = None,
    shard: ShardText = None,
    printed: PrintOptions,
) -> None:
    """Says what cuts do to running text: perplexity, divergence and agreement.

    Example: `tl-truncate side-effects --model demo --cut blocks.27.mlp.W_out=0.1`
    """
    chosen = cutting.read()
    if not chosen:
        raise ValueError(
            "There must be at least one cut, got none. Give --cut SITE=KEEP or --cuts FILE."
        )
    part = as_shard(shard)
    texts = None if text is None else list(read_passages(text))
    found = side_effects(
        source.load(),
        chosen,
        texts,
        run_dir=None if part is None or out is None else out / "run",
        shard=as_pair(part),
        prepend_bos=prepend_bos,
        seed=seed,
        progress=printed.for_people,
        **passes.to_arguments(),
    )
    if part is not None and printed.for_people:
        say_shard(part, out, f"{len(found.frame)} passages")
        return
    written: list[str] = []
    if out is not None and part is None:
        written = write_tables(out, {"table": found.frame}, found.to_json(), found)
    if printed.print(found.to_json(), found.frame):
        return
    say(str(found))
    if out is not None:
        say_written(out, written)
