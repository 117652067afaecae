"""Cuts as a checkpoint: a folder of the edited model, which transformers and `load_model` open."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.export.card import Card, require_new, require_no_scores, require_scores_of, write_card
from tl_truncate.export.changed import changed_tensors, require_of_weights
from tl_truncate.export.published.base import Base, base_in
from tl_truncate.export.published.finding import find_home
from tl_truncate.export.published.unloaded import read_layers
from tl_truncate.export.rewriting import (
    ChangedTensor,
    one_precision,
    write_from_files,
    write_from_memory,
)
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.weights.files import as_path, making


@dataclass(frozen=True)
class Checkpoint:
    """A folder with the edited model.

    Attributes:
        folder: where it is.
        changed: the tensors that are others than in the base.
    """

    folder: Path
    changed: tuple[ChangedTensor, ...]

    def __str__(self) -> str:
        lines = [f"Checkpoint in {self.folder}: {len(self.changed)} tensors changed"]
        lines += [f"  {each.name}: {each.note}" for each in self.changed]
        return "\n".join(lines)


def export_checkpoint(
    model_or_folder: Any,
    cuts: SiteCut | Sequence[SiteCut],
    path: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    scores: Scores | None = None,
    link: bool = False,
) -> Checkpoint:
    """Writes the model with the cuts made in its weights, as a folder that transformers opens.

    Files that no cut is in are copied unread, and so are the configuration and the tokenizer. The others
    are rewritten one at a time. The model in memory is not touched. A folder is not loaded: only the
    layers that are cut are read, and memory is that of one file and of the spectrum of one weight.

    A tensor is stored in the precision that it had; in half precision the cut one is rounded once, as it
    is when a cut weight is read (`truncated(..., weights=True)`). By how much, the result says.

    Args:
        model_or_folder: a TransformerBridge of a transformers model; a HookedTransformer with the raw
            weights of one, whose files are on this machine; or a Hugging Face folder in safetensors.
        cuts: any that are a change of the weights alone; all that are made together. With none the
            folder is the model as it was.
        path: of a folder, which must not exist.
        base: of a model, its files, as for `export_adapter`. Without files a Bridge's own tensors are
            written.
        revision: of a name of the hub.
        scores: of the cut model, for the card.
        link: hard links in place of copies, which takes no room: what is written into such a file, in
            either folder, is then in both.

    Returns:
        Where it is, and what was changed.

    Raises:
        ValueError: if the folder exists, a cut depends on the tokens, or the weights are processed, or
            not the base's; before any work where that can be known.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = tlt.export_checkpoint(model, tlt.Cut("blocks.1.mlp.W_out", 2), f"{folder}/edited")
        >>> made.changed[0].name
        'transformer.h.1.mlp.c_proj.weight'
    """
    target, chosen = require_new(path), Cuts(cuts)
    require_of_weights(chosen)
    if isinstance(model_or_folder, (str, os.PathLike)):
        require_no_scores(scores)
        loaded, compared = None, False
        model, home = read_layers(_of_folder(model_or_folder, base, revision), chosen)
    else:
        require_scores_of(scores, chosen, model_or_folder)
        loaded = model = model_or_folder
        home = find_home(model, base, revision)
        compared = home.base.folder is not None
        if not compared:
            one_precision(home)
    changes = changed_tensors(model, chosen, home)
    card = Card("checkpoint", loaded, home.base, compared, chosen, (), scores)
    metadata = {"tl_truncate": card.as_json()}
    with making(target) as folder:
        if home.base.folder is not None:
            made = write_from_files(folder, home, changes, metadata, link=link)
        else:
            made = write_from_memory(folder, model, home, changes, metadata)
        write_card(folder, replace(card, changes=[(each.name, each.cuts, each.note) for each in made]))
    return Checkpoint(target, made)


def _of_folder(
    folder: str | os.PathLike[str], base: str | os.PathLike[str] | None, revision: str | None
) -> Base:
    if base is not None or revision is not None:
        raise ValueError(
            "base and revision must go with a model, but a folder was given, which is its own."
        )
    if not as_path(folder).is_dir():
        raise ValueError(
            f"The folder must exist, got {os.fspath(folder)!r}. Load a name of the hub first: "
            "tlt.export_checkpoint(tlt.load_model(name), ...)."
        )
    return base_in(as_path(folder))
