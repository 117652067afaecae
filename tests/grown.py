"""Prints what `evaluate` or `sweep` was allowed, and by how much the process grew under it and without it.

For a process of its own: what a long one has freed before is used again unseen, and lies in pieces.
"""

import json
import re
import sys

import architectures
import torch
from growth import growth
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import tl_truncate as tlt

CUT = tlt.Cut("blocks.1.mlp.W_out", 0.3)


def middle() -> TransformerBridge:
    """A random model beside whose passes the overheads are small."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=architectures.VOCAB,
        hidden_size=256,
        num_hidden_layers=3,
        num_attention_heads=8,
        intermediate_size=1024,
        max_position_embeddings=64,
    )
    source = GPTNeoXForCausalLM(config).eval().requires_grad_(False)
    return TransformerBridge.boot_transformers(
        "middle", hf_model=source, tokenizer=architectures.word_tokenizer()
    )


def different(count: int) -> tlt.Task:
    """Prompts of 24 words without a common beginning."""
    words = ["Mary", "John", "Paris", "London", "gave", "went", "store", "drink"]
    places = torch.randint(0, 8, (count, 24), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [" ".join(words[place] for place in row) for row in places]
    return tlt.Task("different", prompts, [" Mary"] * count, " the")


def main(name: str, times: float) -> dict[str, int]:
    """With the spectra to be computed, where so many times the least that is needed is allowed."""
    model, options = middle(), dict(prepend_bos=False, progress=False, batch_size=512)

    def work(count: int, allowed: int | None) -> None:
        task, limit = different(count), dict(options, max_memory=allowed)
        if name == "evaluate":
            tlt.evaluate(model, task, CUT, **limit)
        else:
            tlt.sweep(model, task, sites=[CUT.site], keeps=[0.1, 0.3], **limit)

    work(2, None)  # loads what it needs
    tlt.cache_clear()
    try:
        work(256, 1)
        raise AssertionError("one byte must not be enough")
    except ValueError as refused:
        least = int(re.search(r"at least (\d+)", str(refused))[1])
    allowed = int(times * least)
    used = growth(lambda: work(256, allowed))
    return dict(allowed=allowed, used=used, free=growth(lambda: work(256, None)))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], float(sys.argv[2]))))
