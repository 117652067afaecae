"""Cuts as a LoRA adapter: a cut adds a matrix of known rank to a weight, which is what an adapter does.

For `W -> W + L R^T`, `W` `[n_in, n_out]`: `lora_A = L^T`, `lora_B = R`, `lora_alpha = r`. No bias is
changed, and nothing is approximated but by rounding.

Source: LoRA (Hu et al. 2021, arXiv 2106.09685), equation 3.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_truncate.checks import require_extra
from tl_truncate.experiments.scoring.evaluate import Scores
from tl_truncate.export.card import Card, require_new, require_scores_of, write_card
from tl_truncate.export.changed import Changed, changed_tensors, require_of_weights
from tl_truncate.export.low_rank import low_rank
from tl_truncate.export.published.base import Base
from tl_truncate.export.published.finding import find_home
from tl_truncate.export.published.home import Home
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.weights.files import making, save_tensors
from tl_truncate.weights.linear import compute_dtype

# In units of rounding of the largest singular value; more than what rounded bases leave behind.
_ROUNDING = 4.0


class LargeAdapterWarning(UserWarning):
    """An adapter holds more numbers than the weights that it changes."""


@dataclass(frozen=True)
class AdapterPart:
    """What an adapter adds to one module.

    Attributes:
        module: its name in the Hugging Face model.
        cuts: that are made in its weight.
        shape: `(n_in, n_out)` of the weight.
        rank: of what is added.
        rest: the largest singular value of the difference that was left away as rounding, as a share of
            the largest one of the weight.
    """

    module: str
    cuts: tuple[SiteCut, ...]
    shape: tuple[int, int]
    rank: int
    rest: float

    @property
    def numbers(self) -> int:
        """How many numbers both factors have."""
        return self.rank * sum(self.shape)

    @property
    def is_larger(self) -> bool:
        """Whether that is more than the weight has."""
        return self.numbers > self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Adapter:
    """Cuts as a LoRA adapter, not yet on the disk.

    Attributes:
        base: the weights that it is for.
        compared: whether the model's weights were compared with the base's files.
        parts: what it adds, module by module.
        dtype: of its numbers.
        fan_in_fan_out: whether the modules store `[n_in, n_out]`.
        tensors: its numbers, by the names that peft has for them.
        card: what is said of it.
    """

    base: Base
    compared: bool
    parts: tuple[AdapterPart, ...]
    dtype: torch.dtype
    fan_in_fan_out: bool
    tensors: dict[str, Tensor] = field(repr=False)
    card: Card = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Its size."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def __str__(self) -> str:
        known = "" if self.compared else ", whose files were not at hand to be compared with"
        lines = [f"LoRA adapter of {self.base}{known}: {self.nbytes / 1e6:.2f} MB"]
        for part in self.parts:
            share = part.numbers / (part.shape[0] * part.shape[1])
            lines.append(f"  {part.module}: rank {part.rank}, {share:.0%} of the weight's numbers")
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the adapter as peft reads it, under a temporary name first.

        Returns:
            The folder.

        Raises:
            ValueError: if there is one already.
        """
        target = require_new(path)
        with making(target) as folder:
            self._config().save_pretrained(str(folder))
            metadata = {"format": "pt", "tl_truncate": self.card.as_json()}
            save_tensors(folder / "adapter_model.safetensors", self.tensors, metadata)
            write_card(folder, self.card)
        return target

    def _config(self) -> Any:
        from peft import LoraConfig

        ranks = {part.module: part.rank for part in self.parts}
        largest = max(ranks.values())
        # A key of a pattern is a regular expression; that of one module's whole name fits no other.
        others = {name.replace(".", r"\."): rank for name, rank in ranks.items() if rank != largest}
        return LoraConfig(
            task_type="CAUSAL_LM",
            base_model_name_or_path=self.base.name,
            revision=self.base.revision,
            inference_mode=True,
            r=largest,
            lora_alpha=largest,
            rank_pattern=others,
            alpha_pattern=others,
            target_modules=list(ranks),
            fan_in_fan_out=self.fan_in_fan_out,
            lora_dropout=0.0,
            bias="none",
        )


def export_adapter(
    model: Any,
    cuts: SiteCut | Sequence[SiteCut],
    path: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    scores: Scores | None = None,
) -> Adapter:
    """Writes cuts as a LoRA adapter, which peft, transformers and others load without this package.

    `PeftModel.from_pretrained(base, path)` is the cut model, and `merge_and_unload()` has the cut
    weights. The adapter holds what is *removed*: of a cut that keeps little, a checkpoint is smaller
    (`export_checkpoint`), and a warning says so before anything is written.

    Half precision: the factors are in float32. Each layer adds what they give to an output that has
    been rounded already, while the cut at work and a merged model round once.

    Args:
        model: a TransformerBridge of a transformers model, or a HookedTransformer with the raw weights
            of one, whose files are on this machine.
        cuts: any that are a change of the weights alone; all that are made together.
        path: of a folder, which must not exist.
        base: the weights that the adapter is for, a folder or a name of the hub; by default what the
            model was loaded from. Where its files are on this machine the model's weights are compared
            with them; nothing is fetched.
        revision: of a name of the hub.
        scores: of the cut model, for the card.

    Returns:
        The adapter, which says its rank and size.

    Raises:
        ValueError: if the folder exists, a cut depends on the tokens, the weights are processed or not
            the base's, or nothing is changed; before any work where that can be known.
        ModuleNotFoundError: without the extra `export`.

    Examples:
        >>> import tempfile
        >>> cut = tlt.Cut("blocks.1.mlp.W_out", keep=tlt.DropTop(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = tlt.export_adapter(model, cut, f"{folder}/adapter")
        >>> made.parts[0].module, made.parts[0].rank
        ('transformer.h.1.mlp.c_proj', 2)
    """
    require_extra("export")
    require_new(path)
    made = make_adapter(model, cuts, base=base, revision=revision, scores=scores)
    warn_if_larger(made)
    made.save(path)
    return made


def make_adapter(
    model: Any,
    cuts: SiteCut | Sequence[SiteCut],
    *,
    base: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    scores: Scores | None = None,
) -> Adapter:
    """The adapter that `export_adapter` writes; the arguments are its.

    Raises:
        ValueError: as there.
    """
    chosen = Cuts(cuts)
    if not chosen:
        raise ValueError("At least one cut must be given to make an adapter of, got none.")
    require_of_weights(chosen)
    require_scores_of(scores, chosen, model)
    home = find_home(model, base, revision)
    dtype = compute_dtype(next(iter(model.parameters())).dtype)
    changes = changed_tensors(model, chosen, home)
    _require_linears(changes, home)
    parts, tensors = [], {}
    for changed in changes:
        part, left, right = _factors(changed, home, dtype)
        if part.rank:
            parts.append(part)
            prefix = f"base_model.model.{part.module}"
            tensors[f"{prefix}.lora_A.weight"] = left.T.contiguous()
            tensors[f"{prefix}.lora_B.weight"] = right.contiguous()
    if not parts:
        raise ValueError(
            f"The cuts must change something to make an adapter of, but {chosen!r} leaves the weights "
            "as they are."
        )
    compared = home.base.folder is not None
    about = [(part.module, part.cuts, f"rank {part.rank}") for part in parts]
    card = Card("adapter", model, home.base, compared, chosen, about, scores)
    by_input = changes[0].inputs_first
    return Adapter(home.base, compared, tuple(parts), dtype, by_input, tensors, card)


def _factors(changed: Changed, home: Home, dtype: torch.dtype) -> tuple[AdapterPart, Tensor, Tensor]:
    shape = home.originals.shape(changed.name)
    n_in, n_out = shape if changed.inputs_first else shape[::-1]
    difference, size = changed.difference(n_out)
    left, right, rest = low_rank(difference, _ROUNDING * torch.finfo(dtype).eps * size)
    share = rest / size if size else 0.0
    part = AdapterPart(changed.module, changed.cuts, (n_in, n_out), left.shape[1], share)
    return part, left.to("cpu", dtype), right.to("cpu", dtype)


def _require_linears(changes: Sequence[Changed], home: Home) -> None:
    for changed in changes:
        module = home.layout.empty.get_submodule(changed.module)
        if not isinstance(module, torch.nn.Linear) and type(module).__name__ != "Conv1D":
            raise ValueError(
                f"An adapter must be of linear modules, but {changed.module} is a "
                f"{type(module).__name__}, which peft does not know. Use tlt.export_checkpoint."
            )


def warn_if_larger(made: Adapter) -> None:
    """Warns of what holds more numbers than the weight that it changes."""
    larger = [part for part in made.parts if part.is_larger]
    if larger:
        first = larger[0]
        warnings.warn(
            f"The adapter ({made.nbytes / 1e6:.1f} MB) holds what is removed, which is more than what "
            f"is left: of {first.module} it has rank {first.rank}, {first.numbers} numbers for a weight "
            f"of {first.shape[0] * first.shape[1]}. tlt.export_checkpoint is smaller.",
            LargeAdapterWarning,
            stacklevel=3,
        )
