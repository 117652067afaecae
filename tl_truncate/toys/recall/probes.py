"""What is looked at while a recall model trains: the probes of the paper."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.surgery.cut import Cut
from tl_truncate.surgery.hooks import truncated
from tl_truncate.toys.recall.data import RecallBatch, RecallData
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site

#: The published truncations: 0 drops the MLP, whose biases are zero.
KEEPS = (0.2, 0.1)


@dataclass(frozen=True, eq=False)
class Probes:
    """Measures a recall model on clean and on noisy sequences.

    Args:
        data: the distribution.
        size: sequences of each kind.
        seed: of the sequences.
    """

    data: RecallData
    size: int
    seed: int

    @cached_property
    def clean(self) -> RecallBatch:
        """Sequences without noise; the answers are scored on them."""
        return self.data.clean().sample(self.size, seed=(self.seed, 1 << 40))

    @cached_property
    def noisy(self) -> RecallBatch:
        """Sequences with noise; attention is looked at on them."""
        return self.data.sample(self.size, seed=(self.seed, 1 << 41))

    def measure(self, model: Any) -> dict[str, float]:
        """All probes of a model.

        Returns:
            accuracy, p_correct, p_noise of the full model; the same with `_mlp<L>_W_in_0.2` and so on
            for truncated MLPs, and with `_mlp<L>_dropped`; margin_ff0, margin_ff1, margin_ff0_ff1;
            previous_token, induction, attention_correct, attention_noise.
        """
        with torch.no_grad():
            found = self.scores(model)
            for name, cut in truncations(len(model.blocks)):
                with truncated(model, cut):
                    values = self.scores(model)
                found |= {f"{metric}_{name}": value for metric, value in values.items()}
            return found | self.margins(model) | self.attention(model)

    def scores(self, model: Any) -> dict[str, float]:
        """Accuracy, p(correct) and p(noise) where a trigger has occurred before, on clean sequences."""
        batch = self.clean
        seen = torch.from_numpy(batch.recalled)
        logits = model(_on(model, batch.inputs)).cpu()[seen]
        labels = torch.from_numpy(batch.labels.copy())[seen]
        probability = logits.double().softmax(-1)
        return {
            "accuracy": float((logits.argmax(-1) == labels).double().mean()),
            "p_correct": float(probability.gather(1, labels[:, None]).mean()),
            "p_noise": float(probability[:, self.data.noise_token].mean()),
        }

    def margins(self, model: Any) -> dict[str, float]:
        """Logit of the noise token less the largest other one, of MLPs fed the trigger's embedding."""
        trigger = model.W_E[list(self.data.fixed_triggers)].detach()
        first, second = (feed_forward(model, layer, trigger) for layer in (0, -1))
        paths = dict(ff0=first, ff1=second, ff0_ff1=feed_forward(model, -1, first))
        return {f"margin_{name}": self._margin(path @ model.W_U) for name, path in paths.items()}

    def _margin(self, logits: Float[Tensor, "trigger d_vocab"]) -> float:
        others = logits.clone()
        others[:, self.data.noise_token] = -torch.inf
        return float((logits[:, self.data.noise_token] - others.amax(-1)).mean())

    def attention(self, model: Any) -> dict[str, float]:
        """Where the heads look, on noisy sequences.

        previous_token is the first layer's mean attention to the position before; the others are of
        the last layer, from triggers that have occurred before to what followed them then: to the
        noise token, to anything else (the correct token), and to both (induction).
        """
        batch = self.noisy
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in (0, len(model.blocks) - 1)]
        _, cache = model.run_with_cache(_on(model, batch.inputs), names_filter=names)
        first, last = (cache[name][:, 0].cpu().double() for name in names)
        tokens = torch.from_numpy(batch.inputs.copy())
        # A key follows an earlier occurrence of the query's token.
        followed = torch.zeros_like(last, dtype=torch.bool)
        followed[:, :, 1:] = tokens[:, :, None] == tokens[:, None, :-1]
        mass = last * followed.tril()
        to_noise = (mass * (tokens == self.data.noise_token)[:, None, :]).sum(-1)
        seen = torch.from_numpy(batch.recalled)
        noise, induction = to_noise[seen].mean(), mass.sum(-1)[seen].mean()
        return {
            "previous_token": float(first.diagonal(-1, 1, 2).mean()),
            "induction": float(induction),
            "attention_correct": float(induction - noise),
            "attention_noise": float(noise),
        }


def truncations(n_layers: int) -> Iterator[tuple[str, Cut]]:
    """The cuts whose effects are followed, with their names."""
    for layer in range(n_layers):
        for matrix in ("W_in", "W_out"):
            for keep in KEEPS:
                yield f"mlp{layer}_{matrix}_{keep}", Cut(f"blocks.{layer}.mlp.{matrix}", keep)
        yield f"mlp{layer}_dropped", Cut(f"blocks.{layer}.mlp.W_out", 0.0)


def feed_forward(
    model: Any, layer: int, inputs: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """A bias-free ReLU MLP of a model, by its weights alone."""
    block = layer % len(model.blocks)
    w_in, w_out = (locate(model, Site(block, matrix)).weight() for matrix in ("W_in", "W_out"))
    output: Tensor = (inputs @ w_in).relu() @ w_out
    return output


def _on(model: Any, tokens: np.ndarray) -> Tensor:
    return torch.from_numpy(tokens.copy()).to(model.W_E.device)
