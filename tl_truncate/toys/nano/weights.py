"""Checkpoints of a nano-Pythia as Hugging Face folders."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def save_checkpoint(
    model: Any, tokenizer: Any, folder: Path, *, dtype: torch.dtype | None = None
) -> None:
    """Writes a Hugging Face folder, under another name first."""
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().cpu().to(dtype or value.dtype) for name, value in model.state_dict().items()
    }
    save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(part)
    tokenizer.save_pretrained(part)
    if folder.exists():  # a resumed run may come to a step again, whose weights are the same
        shutil.rmtree(part)
    else:
        part.rename(folder)
