"""A model's outline: its shapes, names and tokenizer, from its configuration alone.

No weight is read or fetched. What stands in for the model is a Bridge of one block, which is listed as
often as the model has blocks, and whose weights are one number each, looked at as a matrix: so sites are
found, grids checked and prompts encoded by the code that does so for the model itself.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tl_truncate.checkpoints import NANO_MODEL, checkpoint_steps, hub_name
from tl_truncate.models.demo import read_demo_outline
from tl_truncate.models.hub import Repository
from tl_truncate.models.load import (
    check_checkpoint,
    check_dtype,
    explained,
    local_folder,
    pythia_revision,
)
from tl_truncate.models.quiet import without_advice
from tl_truncate.weights.holding.placement import model_dtype
from tl_truncate.weights.identity.provenance import source

# Of a weight that stands in for one: any that is neither zero nor large, since some modules are asked
# whether they multiply by it.
_NUMBER = 0.01
# What a configuration lists for each block; the outline has one.
_PER_BLOCK = ("layer_types", "mlp_layer_types", "attention_layers")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Download:
    """What is to be fetched from the hub: how many sets of weights, and their bytes."""

    revisions: int
    size: int


@dataclass(frozen=True, eq=False)
class Outline:
    """What a configuration says of a model.

    Attributes:
        name: as it was asked for.
        model: stands in for the model wherever shapes, names and tokens are asked.
        config: of transformers; None where a live model was given.
        n_parameters: of the model, what is tied counted once.
        n_loaded: of the Bridge, which keeps queries, keys and values apart beside a weight that joins
            them.
        stored_dtype: that its files are in.
        revision: on the hub; None where its files are on this machine.
        asked: by which name `load_model` loads it; None for a configuration and a model that is there.
        checkpoint: that was asked for.
    """

    name: str
    model: Any
    config: Any
    n_parameters: int
    n_loaded: int
    stored_dtype: torch.dtype
    revision: str | None = None
    asked: str | None = None
    checkpoint: int | None = None

    def download(self, checkpoints: Sequence[int] = ()) -> "Download":
        """What is on the hub and not in the cache: as large as the hub says of one of them, else by its
        parameters.

        Args:
            checkpoints: that are wanted; none is the one that was asked for.
        """
        if self.revision is None:
            return Download(0, 0)
        repository = Repository(hub_name(self.name))
        wanted = [f"step{step}" for step in checkpoints] or [self.revision]
        missing = [revision for revision in wanted if repository.here(revision) is None]
        if not missing:
            return Download(0, 0)
        try:
            each = repository.missing_bytes(missing[-1])
        except OSError:  # the configuration was in the cache, and the hub cannot be reached
            each = 0
        return Download(len(missing), (each or self.stored_bytes) * len(missing))

    @property
    def stored_bytes(self) -> int:
        """Of the weights, in the precision that they are stored in."""
        return self.n_parameters * self.stored_dtype.itemsize


def read_outline(
    name: str, *, checkpoint: int | None = None, dtype: torch.dtype | str = torch.float32
) -> Outline:
    """The outline of a model that `load_model` would load by this name.

    The configuration and the tokenizer's files are read, and fetched where they are not in the cache.

    Args:
        name: `demo`, `nano-pythia`, a hub name, or a folder.
        checkpoint: as for `load_model`.
        dtype: that the weights are to be loaded in.

    Raises:
        ValueError: if the arguments do not fit together, or the configuration is none that can be
            outlined.
        OSError: if the configuration is neither in the local cache nor reachable.
    """
    chosen = check_dtype(dtype)
    checkpoint = None if checkpoint is None else check_checkpoint(checkpoint)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"A model's name must be 'demo', a hub name or a folder, got {name!r}.")
    if name == "demo":
        if checkpoint is not None:
            raise ValueError("The demo model has no revisions or checkpoints; leave both away.")
        config, tokenizer = read_demo_outline()
        found = outline_of(config, name=name, tokenizer=tokenizer, dtype=chosen)
        found.model.cfg.default_prepend_bos = False
        return replace(found, asked=name)
    last = checkpoint_steps(name)[-1] if name == NANO_MODEL and checkpoint is None else checkpoint
    folder = local_folder(name, last)
    target = str(folder) if folder is not None else hub_name(name)
    on_hub = checkpoint is not None and folder is None
    revision = pythia_revision(target, checkpoint) if on_hub and checkpoint is not None else None
    from transformers import AutoConfig

    with explained(target, revision), without_advice():
        config = AutoConfig.from_pretrained(target, revision=revision)
    tokenizer = _tokenizer(target, folder, revision)
    found = outline_of(config, name=name, tokenizer=tokenizer, dtype=chosen)
    where = None if folder is not None else revision or "main"
    return replace(found, revision=where, asked=name, checkpoint=checkpoint)


def _tokenizer(target: str, folder: Path | None, revision: str | None) -> Any:
    """The tokenizer, or None if there is none."""
    from transformers import AutoTokenizer

    if folder is not None and not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        return None
    try:
        with without_advice():
            return AutoTokenizer.from_pretrained(target, revision=revision)
    except OSError:  # it is not in the cache and cannot be fetched, or the hub has none
        return None


def outline_of(
    config: Any,
    *,
    name: str | None = None,
    tokenizer: Any = None,
    dtype: torch.dtype | str = torch.float32,
) -> Outline:
    """The outline of a model with a configuration of transformers.

    Raises:
        ValueError: if its blocks are of several shapes, or the configuration is of no such model.
    """
    chosen = check_dtype(dtype)
    named = name or str(getattr(config, "_name_or_path", "") or getattr(config, "model_type", "model"))
    # transformers notes in a configuration what precision a model is built in.
    stored, config = getattr(config, "dtype", None), copy.deepcopy(config)
    whole, single = _on_meta(config, chosen), _on_meta(_one_block(config), chosen)
    depth = int(config.num_hidden_layers)
    _require_alike(named, whole, depth)
    parameters, of_one = _count(whole), _count(single)
    bridge = _bridge(single, tokenizer, chosen, stand_in=True)
    of_block = (parameters - of_one) // max(depth - 1, 1)
    loaded = parameters + depth * (_count(bridge.blocks[0]) - of_block)
    bridge.blocks = nn.ModuleList([bridge.blocks[0]] * depth)
    bridge.cfg.n_layers = depth
    stored = stored if isinstance(stored, torch.dtype) else chosen
    return Outline(named, bridge, config, parameters, loaded, stored)


def live_outline(model: Any) -> Outline:
    """The outline of a model that is there, which stands in for itself."""
    held = _count(model)
    return Outline(source(model), model, None, held, held, model_dtype(model))


def _count(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def block_of(outline: Outline, vocabulary: int = 256) -> Any:
    """A Bridge of one block of an outline's shape, with numbers in it, to be timed.

    Args:
        outline: of a configuration.
        vocabulary: a small one, since it is the block that is of interest.
    """
    config = _one_block(outline.config)
    config.vocab_size, config.pad_token_id = vocabulary, None
    dtype = next(iter(outline.model.parameters())).dtype
    return _bridge(_on_meta(config, dtype), None, dtype, stand_in=False)


def _one_block(config: Any) -> Any:
    own = copy.deepcopy(config)
    own.num_hidden_layers = 1
    for name in _PER_BLOCK:
        listed = getattr(own, name, None)
        if isinstance(listed, list) and listed:
            setattr(own, name, listed[:1])
    return own


def _on_meta(config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"), without_advice():
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    except (ValueError, AttributeError) as problem:
        raise ValueError(
            "The configuration must be that of a causal language model of transformers, got "
            f"{type(config).__name__} ({str(problem).splitlines()[0]})"
        ) from None


def _bridge(source: Any, tokenizer: Any, dtype: torch.dtype, *, stand_in: bool) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    for module in source.modules():
        for held in (module._parameters, module._buffers):
            for name, value in list(held.items()):
                if value is not None:
                    held[name] = _filled(value, stand_in)
    with without_advice():
        # Without a tokenizer TransformerLens asks the hub for one by the model's name.
        model = TransformerBridge.boot_transformers(
            "outline", hf_model=source, tokenizer=tokenizer or _no_tokenizer(), dtype=dtype, device="cpu"
        )
    if tokenizer is None:
        model.tokenizer = None
    return model.eval()


def _no_tokenizer() -> Any:
    """A tokenizer of one word, that stands where one must."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="a", pad_token="a")


def _filled(value: torch.Tensor, stand_in: bool) -> torch.Tensor:
    """A number for all of a tensor; where it is to be computed with, in memory of its own."""
    number = torch.full((), _NUMBER if value.is_floating_point() else 0, dtype=value.dtype, device="cpu")
    filled = number.expand(value.shape)
    filled = filled if stand_in else filled.contiguous()
    is_weight = isinstance(value, nn.Parameter)
    return nn.Parameter(filled, requires_grad=False) if is_weight else filled


def _require_alike(name: str, whole: Any, depth: int) -> None:
    """Refuses a model whose blocks are of several shapes: one cannot stand for all."""
    blocks = next(
        (each for each in whole.modules() if isinstance(each, nn.ModuleList) and len(each) == depth),
        None,
    )
    shapes = (
        set()
        if blocks is None
        else {tuple((key, value.shape) for key, value in block.named_parameters()) for block in blocks}
    )
    if len(shapes) != 1:
        raise ValueError(
            f"The blocks of {name} must be of one shape to be planned for from the configuration, got "
            f"{len(shapes)} shapes of {depth} blocks. Load the model and plan with it."
        )
