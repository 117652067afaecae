"""What linears read and write, as it goes by in a pass, in the shapes of their matrices."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_truncate.decompose.passes import by_row
from tl_truncate.weights.linear import Linear, head_slice, where_float64_is
from tl_truncate.weights.site import Site


@dataclass
class Seen:
    """Inputs and outputs of linears in one pass, as their points gave them."""

    inputs: dict[Site, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def input(self, linear: Linear) -> Float[Tensor, "batch pos n_in"]:
        """x, of one head where the site is one of W_O.

        Raises:
            ValueError: if the pass did not show it.
        """
        found = self.inputs.get(linear.site)
        if found is None:
            raise ValueError(_missed(linear))
        width = linear.shape[0] * (linear.n_heads if linear.writes_one_head else 1)
        flat = found if found.shape[-1] == width else found.flatten(2)
        if not linear.writes_one_head:
            return flat
        return flat[..., head_slice(linear.site, width, linear.n_heads)]

    def output(self, linear: Linear) -> Tensor:
        """The value at the point of y, of all heads, as it stands in the graph.

        Raises:
            ValueError: if the pass did not show it.
        """
        if linear.output.name not in self.outputs:
            raise ValueError(_missed(linear))
        return self.outputs[linear.output.name]


def _missed(linear: Linear) -> str:
    return (
        f"A pass must reach {linear.site}, but it did not. Switch off use_attn_result and what else "
        "replaces the hook points of this model."
    )


@contextmanager
def watching(
    tokens: Int64[Tensor, "batch pos"], reads: Sequence[Linear], writes: Sequence[Linear]
) -> Iterator[Seen]:
    """Sees what some linears read and others write, behind every hook at their points.

    Args:
        tokens: of the pass.
        reads: whose inputs are wanted.
        writes: whose outputs are wanted.
    """
    seen = Seen()
    with ExitStack() as stack:
        for linear in reads:
            keep = _into(seen.inputs, linear.site, lambda value: by_row(value, tokens))
            stack.callback(_at_input(linear, keep).remove)
        for name, module in {each.output.name: each.output.module for each in writes}.items():
            # As it is: a view of it is no part of the graph.
            keep = _into(seen.outputs, name, lambda value: value)
            stack.callback(module.register_forward_hook(_leaving(keep)).remove)
        yield seen


def _into(
    found: dict[Any, Tensor], name: Any, as_kept: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], None]:
    def keep(value: Tensor) -> None:
        found[name] = as_kept(value)

    return keep


def _leaving(keep: Callable[[Tensor], None]) -> Callable[..., None]:
    def hook(module: Any, args: Any, value: Tensor) -> None:
        keep(value)

    return hook


def _at_input(linear: Linear, keep: Callable[[Tensor], None]) -> Any:
    if linear.input is not None:
        return linear.input.module.register_forward_hook(_leaving(keep))
    assert linear.given is not None
    name = linear.given.name

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        keep(kwargs[name] if name in kwargs else args[0])

    return linear.given.module.register_forward_pre_hook(hook, with_kwargs=True)


def columns_of(
    linear: Linear, value: Tensor, tokens: Int64[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos n_out"]:
    """The site's own columns of a value at the point of its output; W_O's heads write all of them."""
    value = by_row(value, tokens)
    width = linear.shape[1]
    heads = 1 if linear.site.head is None or linear.writes_one_head else linear.n_heads
    flat = value if value.shape[-1] == width * heads else value.flatten(2)
    return flat if heads == 1 else flat[..., head_slice(linear.site, width * heads, heads)]


def positions_of(
    value: Float[Tensor, "batch pos width"], counted: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "positions width"]:
    """Those that count, on a device that has float64."""
    there = where_float64_is(value.detach())
    places = counted.flatten().nonzero()[:, 0].to(there.device)
    return there.flatten(0, 1).index_select(0, places)


def require_visible(linear: Linear) -> None:
    """Refuses a linear that does not read one input and write one output, each head once.

    Raises:
        ValueError: if it does not.
    """
    if not linear.comes_whole():
        raise ValueError(
            f"{linear.site} must read one input and write one output, but use_split_qkv_input, "
            "use_attn_in or ungroup_grouped_query_attention is switched on, and each head has its own. "
            "Switch it off to fit."
        )


def require_finite(linear: Linear, sums: Tensor, told: str) -> None:
    """Refuses sums that have a NaN or an infinity in them.

    Raises:
        ValueError: if they have.
    """
    if not bool(torch.isfinite(sums.diagonal().sum())):
        raise ValueError(
            f"What {linear.site} {told} must be finite, got NaN or infinity on these rows. Load the "
            "model in float32 or bfloat16, or leave them out."
        )
