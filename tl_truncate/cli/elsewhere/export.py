"""`tl-truncate export`: cuts as an adapter or as a checkpoint, which need nothing of this package."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from tl_truncate.checkpoints import NANO_MODEL
from tl_truncate.checks import one_of, require_extra
from tl_truncate.cli.shared.app import app, console, kind
from tl_truncate.cli.shared.cuts import CutOptions
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import ModelOptions
from tl_truncate.cli.shared.options import PATH
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.export.adapter import make_adapter, warn_if_larger
from tl_truncate.export.card import require_new
from tl_truncate.export.changed import require_of_weights
from tl_truncate.export.checkpoint import export_checkpoint
from tl_truncate.weights.files import as_path

_KINDS = ("adapter", "checkpoint")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@app.command("export")
@kind
@grouped
def export_command(
    *,
    source: ModelOptions,
    cutting: CutOptions,
    as_: Annotated[str, typer.Option("--as", help="`adapter` (LoRA, for peft) or `checkpoint`.")],
    out: Annotated[Path, typer.Option(help="The folder to write, which must not exist.", **PATH)],
    base: Annotated[
        str | None,
        typer.Option(help="The weights it is for, a folder or a hub name; by default the model's own."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="A folder that `evaluate --out` wrote, for the model card.", **PATH),
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="Of a checkpoint: hard links to files without cuts.")
    ] = False,
) -> None:
    """Writes cuts as a LoRA adapter, or the cut model as a checkpoint.

    Example: `tl-truncate export -m demo --cut "blocks.27.mlp.W_out=DropTop(8)" --as adapter --out a`

    peft and transformers load them without tl_truncate. A checkpoint of a local folder is written
    without loading the model, unless more is said about it.
    """
    one_of("--as", as_, _KINDS)
    if link and as_ == "adapter":
        raise ValueError("--link must go with --as checkpoint: an adapter has no files of the base.")
    require_new(out)
    if base is not None and not as_path(base).is_dir() and not _HUB_NAME.fullmatch(base):
        raise ValueError(
            f"--base must be a folder, or a name on the hub such as org/name, got {base!r}."
        )
    cuts = cutting.read()
    if not cuts:
        raise ValueError("At least one cut must be given: --cut SITE=KEEP, or --cuts FILE.")
    require_of_weights(cuts)
    options: dict[str, Any] = dict(base=base, scores=None if scores is None else Scores.load(scores))
    if as_ == "adapter":
        require_extra("export", otherwise="Or write a checkpoint: --as checkpoint.")
        made = make_adapter(source.load(), cuts, **options)
        console.print(str(made), markup=False, soft_wrap=True)
        warn_if_larger(made)
        written = made.save(out)
    else:
        given = source.load() if base is not None or scores is not None else _unloaded(source)
        done = export_checkpoint(given, cuts, out, link=link, **options)
        console.print(str(done), markup=False, soft_wrap=True)
        written = done.folder
    console.print(f"Written: {written}", markup=False, soft_wrap=True)


def _unloaded(source: ModelOptions) -> Any:
    """A folder that can stay unloaded, or the model: where nothing is asked of its loading."""
    usual = ModelOptions(model=source.model, verbose=source.verbose)
    folder = as_path(source.model)
    if source == usual and source.model not in ("demo", NANO_MODEL) and folder.is_dir():
        return folder
    return source.load()
