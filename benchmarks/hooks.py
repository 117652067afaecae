"""What a cut costs a forward pass: `python benchmarks/hooks.py [--threads 2] [--device cuda]`.

GPT-NeoX shape with 12 layers, d_model 768, 64 prompts of 16 tokens, float32, logits of all positions, as
a TransformerBridge. Only the pass is timed, not entering the context. Goals: one hooked site at most
1.02x of a plain pass, all MLP sites at 10% of their rank at most 1.15x.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from clock import add_device, name_of, timed
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import tl_truncate as tlt

# A Bridge asks for a tokenizer; the tests have one that needs no hub.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from architectures import word_tokenizer


def build() -> torch.nn.Module:
    """A random GPT-NeoX of Pythia-160m's shape."""
    config = GPTNeoXConfig(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
    )
    source = GPTNeoXForCausalLM(config).eval()
    return TransformerBridge.boot_transformers(
        "pythia-160m-shape", hf_model=source, tokenizer=word_tokenizer()
    )


def seconds(model: torch.nn.Module, tokens: torch.Tensor, cuts: list[tlt.Cut]) -> float:
    """One timed pass with the cuts active."""
    with torch.no_grad(), tlt.truncated(model, cuts):
        return timed(lambda: model(tokens), tokens.device.type)


def main() -> None:
    """Measures all alternatives in turns, in one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=25)
    add_device(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = build().to(options.device)
    tokens = torch.randint(0, 50_000, (64, 16)).to(options.device)
    alternatives = {
        "plain": ([], ""),
        "plain again (the noise of this run)": ([], ""),
        "one site, W_in at 10%": ([tlt.Cut("blocks.6.mlp.W_in", 0.1)], "goal <= 1.02"),
        "one site, W_out at 10%": ([tlt.Cut("blocks.6.mlp.W_out", 0.1)], "goal <= 1.02"),
        "all 24 MLP sites at 10%": (
            [tlt.Cut(site, 0.1) for site in tlt.find_sites(model)],
            "goal <= 1.15",
        ),
    }
    measured: dict[str, list[float]] = {name: [] for name in alternatives}
    for round_ in range(options.repeats + 1):
        for name, (cuts, _) in alternatives.items():
            value = seconds(model, tokens, cuts)
            if round_:  # the first round warms up
                measured[name].append(value)
    plain = measured["plain"]
    print(f"forward pass, {name_of(options.device)}, medians of {options.repeats} rounds in turns")
    for name, (_, goal) in alternatives.items():
        # Paired by round: a drift of the machine meets all alternatives of a round alike.
        ratio = statistics.median(a / b for a, b in zip(measured[name], plain, strict=True))
        print(f"  {name:<38}{statistics.median(measured[name]):9.4f} s  {ratio:6.3f}x  {goal}")


if __name__ == "__main__":
    main()
