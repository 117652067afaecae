"""One cut at work on one linear: at the hook point of its output, or in the weight that is read."""

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tl_truncate.surgery.circuits import is_rounded_before
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.edit import Edit, in_compute_precision
from tl_truncate.weights.linear import Linear, Point, head_slice
from tl_truncate.weights.reading import Change
from tl_truncate.weights.site import Site


class CutNotApplied(RuntimeError):
    """A cut is at work in a model, but a pass through it was, or would be, that of the uncut weight."""


class _Seen(threading.local):
    """What was seen of a linear on its way through one pass, by each thread for itself.

    Attributes:
        x: its input.
        u: `x W`, of one head of W_O, as the cuts before left it.
    """

    x: Tensor | None = None
    u: Tensor | None = None


_seen: "weakref.WeakKeyDictionary[nn.Module, dict[Site, _Seen]]" = weakref.WeakKeyDictionary()


class _Count(threading.local):
    fired: int = 0


@dataclass(eq=False)
class Surgeon:
    """One cut of one linear.

    Args:
        cut: what is done.
        linear: where; of a circuit that of one of its weights.
        edit: the cut's edit of the linear's weight.
    """

    cut: SiteCut
    linear: Linear
    edit: Edit
    _moved: dict[tuple[torch.device, torch.dtype], Edit] = field(default_factory=dict)
    _count: _Count = field(default_factory=_Count)

    @property
    def fired(self) -> int:
        """How often the cut was made, in this thread."""
        return self._count.fired

    @property
    def needs_input(self) -> bool:
        """Whether the linear's input has to be seen too."""
        return self.edit.needs_input or self.linear.writes_one_head

    @property
    def must_be_read(self) -> bool:
        """Whether no projection of the output is exact, as the model stands, but the cut weight is."""
        # A quantised weight has no place for another one, so the output is corrected from its input.
        return (
            not self.linear.is_quantised
            and self.edit.is_of_weight
            and (
                self.needs_input
                or not self.linear.comes_whole()
                or is_rounded_before(self.linear, self.edit)
            )
        )

    def change(self, *, once: bool) -> Change:
        """What stands for the stored weight.

        Args:
            once: whether it is computed once and meant for all who read it.
        """

        def forward(stored: Tensor) -> Tensor:
            whole = in_compute_precision(self.linear.stored.to_matrix(stored))
            part = self.linear.part
            with torch.autocast(whole.device.type, enabled=False):
                cut = self._edit_for(whole).of_weight(whole[part], self.cut.strength)
            if self.linear.site.head is not None:
                joint = whole.clone()
                joint[part] = cut
                cut = joint
            return self.linear.stored.from_matrix(cut).to(stored.dtype).contiguous()

        return Change(forward, once=once, for_all=once)

    def watch(self) -> Iterator[RemovableHandle]:
        """Places the hooks that the edit needs elsewhere in the model."""
        return self.edit.watch()

    def see_input(self, value: Tensor) -> None:
        """Remembers the linear's input until its output comes by."""
        self._seen.x, self._seen.u = value, None

    def at_output(self, value: Tensor) -> Tensor | None:
        """The cut value at the linear's output; None where the per-head results are cut instead."""
        if self.linear.uses_result():
            return None
        self._require_whole()
        self._count.fired += 1
        # Under autocast the products would be rounded to half precision after all.
        with torch.autocast(value.device.type, enabled=False):
            return (
                self._subtract_head(value) if self.linear.writes_one_head else self._cut_columns(value)
            )

    def at_result(self, value: Tensor) -> Tensor | None:
        """The cut value of `attn.hook_result`, `[batch, pos, head, d_model]`, before the bias."""
        if not self.linear.uses_result():
            return None
        self._count.fired += 1
        with torch.autocast(value.device.type, enabled=False):
            return self._cut_heads(value)

    def _require_whole(self) -> None:
        if not self.linear.comes_whole():
            raise CutNotApplied(
                f"A cut of {self.linear.site} must see the output of all heads from one input, each "
                "head once, but use_split_qkv_input, use_attn_in or ungroup_grouped_query_attention is "
                "switched on. Enter tlt.truncated(model, cut) after switching it on; plain hooks and "
                "sweeps cannot make this cut then."
            )

    def _cut_heads(self, value: Tensor) -> Tensor:
        whole = in_compute_precision(value)
        heads, strength = self.linear.site.head, self.cut.strength
        part = whole if heads is None else whole[..., heads : heads + 1, :]
        edit = self._edit_for(part)
        removed = self._removed_by_head(edit, part)
        if heads is None:
            return (whole - strength * removed).to(value.dtype)
        cut = whole.clone()
        cut[..., heads : heads + 1, :] = part - strength * removed
        return cut.to(value.dtype)

    def _removed_by_head(self, edit: Edit, part: Tensor) -> Tensor:
        if not edit.needs_input:
            return edit.removed(part, None)
        x = self._input(part)
        d_head = x.shape[-1] // part.shape[-2]
        # Each head's rows of the joint input, with zeros elsewhere, keep `left` in one piece.
        blocks = torch.eye(part.shape[-2], dtype=x.dtype, device=x.device).repeat_interleave(d_head, 1)
        return edit.removed(part, x.unsqueeze(-2) * blocks)

    def _cut_columns(self, value: Tensor) -> Tensor:
        site, bias = self.linear.site, self.linear.live_bias()
        width = self.linear.shape[1] * (1 if site.head is None else self.linear.n_heads)
        flat = value if value.shape[-1] == width else value.flatten(-2)
        columns = head_slice(site, width, self.linear.n_heads)
        part = in_compute_precision(flat[..., columns])
        edit = self._edit_for(part)
        x = self._input(part) if edit.needs_input else None
        offset = None if bias is None else bias.to(part.device, part.dtype)
        edited = edit.apply(part, offset, x, self.cut.strength).to(value.dtype)
        if site.head is not None:
            whole = flat.clone()
            whole[..., columns] = edited
            edited = whole
        return edited.reshape(value.shape)

    def _subtract_head(self, value: Tensor) -> Tensor:
        """W_O of one head: its share of the sum is computed from its input and corrected."""
        whole = in_compute_precision(value)
        x = self._input(whole)
        # Only this head's share can be cut already: in the weight as it reads, or by hooks before.
        rows = self.linear.stored.as_read()[self.linear.part].to(whole.device, whole.dtype)
        u = x @ rows if self._seen.u is None else self._seen.u
        removed = self.cut.strength * self._edit_for(whole).removed(u, x)
        self._seen.u = u - removed
        return (whole - removed).to(value.dtype)

    @property
    def _seen(self) -> _Seen:
        """Shared by all cuts of the site, whoever made them."""
        return _seen.setdefault(self.linear.output.module, {}).setdefault(self.linear.site, _Seen())

    def _input(self, like: Tensor) -> Tensor:
        x = self._seen.x
        if x is None or x.shape[0] != like.shape[0]:
            raise CutNotApplied(
                f"The input of {self.linear.site} must pass its hook point before the output does, but "
                "it did not. Pass all the hooks that tlt.truncation_hooks returns, or use tlt.truncated."
            )
        rows = self.linear.shape[0]
        width = rows * (self.linear.n_heads if self.linear.writes_one_head else 1)
        flat = x if x.shape[-1] == width else x.flatten(-2)
        if self.linear.writes_one_head:
            flat = flat[..., head_slice(self.linear.site, width, self.linear.n_heads)]
        return flat.to(like.device, like.dtype)

    def _edit_for(self, like: Tensor) -> Edit:
        place = (like.device, like.dtype)
        if place not in self._moved:
            # A pass under inference_mode must leave nothing behind that a gradient cannot use.
            with torch.inference_mode(False), torch.no_grad():
                self._moved[place] = self.edit.moved(*place)
        return self._moved[place]

    def points(self) -> Iterator[tuple[Point, Callable[[Tensor], Tensor | None]]]:
        """The hook points of this cut, with what is to be done to the value that enters each."""
        yield self.linear.output, self.at_output
        if self.linear.result is not None:
            yield self.linear.result, self.at_result
