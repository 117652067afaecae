"""One cut at work on one linear: the value at its hook point becomes the edited weight's output."""

import weakref
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.edit import Edit, in_compute_precision
from tl_truncate.weights.linear import Linear, Point, head_slice


class CutNotApplied(RuntimeError):
    """A whole forward pass ran, but a cut's hook point was never reached in it."""


class Surgeon:
    """One cut of one linear.

    Args:
        cut: what is done.
        linear: where.
        edit: the cut's edit of the linear's weight.
        earlier: those already at work in the model; cuts of the same head of W_O are followed.
    """

    def __init__(
        self, cut: SiteCut, linear: Linear, edit: Edit, earlier: Sequence["Surgeon"] = ()
    ) -> None:
        self.cut = cut
        self.linear = linear
        self.fired = 0
        self._edit = edit
        self._strength = cut.strength
        self._moved: dict[tuple[torch.device, torch.dtype], Edit] = {}
        self._input: Tensor | None = None
        self._last: weakref.ref[Tensor] | None = None
        self._earlier = [other for other in earlier if other.linear.site == linear.site]

    @property
    def needs_input(self) -> bool:
        """Whether the linear's input has to be seen too."""
        return self._edit.needs_input or self.linear.writes_one_head

    def watch(self) -> Iterator[RemovableHandle]:
        """Places the hooks that the edit needs elsewhere in the model."""
        return self._edit.watch()

    def see_input(self, value: Tensor) -> None:
        """Remembers the linear's input until its output comes by."""
        self._input = value

    def at_output(self, value: Tensor) -> Tensor | None:
        """The cut value at the linear's output; None where the per-head results are cut instead."""
        if self.linear.uses_result():
            return None
        if self._last is not None and self._last() is value:
            return None  # early releases of the Bridge pass one tensor through the point twice
        self.fired += 1
        # Under autocast the products would be rounded to half precision after all.
        with torch.autocast(value.device.type, enabled=False):
            cut = self._subtract_head(value) if self.linear.writes_one_head else self._cut_columns(value)
        self._last = weakref.ref(cut)
        return cut

    def at_result(self, value: Tensor) -> Tensor | None:
        """The cut value of `attn.hook_result`, `[batch, pos, head, d_model]`, before the bias."""
        if not self.linear.uses_result():
            return None
        self.fired += 1
        with torch.autocast(value.device.type, enabled=False):
            return self._cut_heads(value)

    def _cut_heads(self, value: Tensor) -> Tensor:
        whole = in_compute_precision(value)
        heads = self.linear.site.head
        part = whole if heads is None else whole[..., heads : heads + 1, :]
        edit = self._edit_for(part)
        removed = self._removed_by_head(edit, part)
        if heads is None:
            return (whole - self._strength * removed).to(value.dtype)
        cut = whole.clone()
        cut[..., heads : heads + 1, :] = part - self._strength * removed
        return cut.to(value.dtype)

    def _removed_by_head(self, edit: Edit, part: Tensor) -> Tensor:
        if not edit.needs_input:
            return edit.removed(part, None)
        x = self._take_input(part)
        d_head = x.shape[-1] // part.shape[-2]
        # Each head's rows of the joint input, with zeros elsewhere, keep `left` in one piece.
        blocks = torch.eye(part.shape[-2], dtype=x.dtype, device=x.device).repeat_interleave(d_head, 1)
        return edit.removed(part, x.unsqueeze(-2) * blocks)

    def _cut_columns(self, value: Tensor) -> Tensor:
        site, bias = self.linear.site, self.linear.bias()
        width = self.linear.shape[1] * (1 if site.head is None else self.linear.n_heads)
        flat = value if value.shape[-1] == width else value.flatten(-2)
        columns = head_slice(site, width, self.linear.n_heads)
        part = in_compute_precision(flat[..., columns])
        edit = self._edit_for(part)
        x = self._take_input(part) if edit.needs_input else None
        offset = None if bias is None else bias.to(part.device, part.dtype)
        edited = edit.apply(part, offset, x, self._strength).to(value.dtype)
        if site.head is not None:
            whole = flat.clone()
            whole[..., columns] = edited
            edited = whole
        return edited.reshape(value.shape)

    def _subtract_head(self, value: Tensor) -> Tensor:
        """W_O of one head: its share of the sum is computed from its input and corrected."""
        whole = in_compute_precision(value)
        x = self._take_input(whole)
        u = x @ self.linear.weight().to(whole.device, whole.dtype)
        # Only this head's share can be seen cut already: earlier cuts of it are followed here.
        for other in self._earlier:
            u = u - other._strength * other._edit_for(whole).removed(u, x)
        removed = self._edit_for(whole).removed(u, x)
        return (whole - self._strength * removed).to(value.dtype)

    def _take_input(self, like: Tensor) -> Tensor:
        if self._input is None:
            raise CutNotApplied(
                f"The input of {self.linear.site} must pass its hook point before the output does, "
                "but it did not. Switch off use_split_qkv_input and use_attn_in for this cut."
            )
        x, self._input = self._input, None
        rows = self.linear.shape[0]
        width = rows * (self.linear.n_heads if self.linear.writes_one_head else 1)
        flat = x if x.shape[-1] == width else x.flatten(-2)
        if self.linear.writes_one_head:
            flat = flat[..., head_slice(self.linear.site, width, self.linear.n_heads)]
        return flat.to(like.device, like.dtype)

    def _edit_for(self, like: Tensor) -> Edit:
        place = (like.device, like.dtype)
        if place not in self._moved:
            self._moved[place] = self._edit.moved(*place)
        return self._moved[place]

    def points(self) -> Iterator[tuple[Point, Callable[[Tensor], Tensor | None]]]:
        """The hook points of this cut, with what is to be done to the value that enters each."""
        yield self.linear.output, self.at_output
        if self.linear.result is not None:
            yield self.linear.result, self.at_result
