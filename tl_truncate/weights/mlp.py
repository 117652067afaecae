"""What an MLP does between its linears: from pre-activations to the input of W_out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tl_truncate.weights.bridge import is_bridge_block
from tl_truncate.weights.holding.offloaded import real
from tl_truncate.weights.locate import available

# What the activation is called inside a Hugging Face or native MLP, or HookedTransformer's.
_NAMES = ("act", "act_fn", "activation_fn", "activation", "gelu_impl")


@dataclass(frozen=True)
class Activation:
    """The inside of one MLP: `post = act(pre)`, or gated `post = act(gate) * pre + bias`.

    Found by name, so whoever uses it compares it with the MLP itself first.
    """

    act: Callable[[Tensor], Tensor]
    gated: bool
    bias: Callable[[], Tensor | None]

    def post(self, pre: Tensor, gate: Tensor | None) -> Tensor:
        """W_out's input from W_in's output and, if there is one, W_gate's."""
        if not self.gated:
            return self.act(pre)
        if gate is None:
            raise ValueError("A gated MLP's output must be computed from both of its branches.")
        bias = self.bias()
        product = self.act(gate) * pre
        return product if bias is None else product + bias


def find_activation(model: Any, layer: int) -> Activation | None:
    """The inside of a block's MLP; None where none is found."""
    block = model.blocks[layer]
    present = available(model, layer)
    if "W_in" not in present or "W_out" not in present:
        return None
    bridged = is_bridge_block(block)
    inside = block.mlp.original_component if bridged else block.mlp
    found = next((getattr(inside, name) for name in _NAMES if hasattr(inside, name)), None)
    if not callable(found):
        return None
    gated = "W_gate" in present

    def bias() -> Tensor | None:
        # HookedTransformer adds b_in behind the gate; elsewhere it is part of W_in's output.
        stored = None if bridged or not gated else real(block.mlp, "b_in")
        return None if stored is None else stored.detach()

    return Activation(found, gated, bias)
