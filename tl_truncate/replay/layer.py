"""One block's own work, kept from an uncut pass and shared by all cuts of that block's MLP.

Source: derived in the documentation, "What a sweep has to compute".
"""

import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.replay.passed import Passed
from tl_truncate.replay.upwards import Replayer, Streams, copied
from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.surgery.hooks import active_cuts, truncated
from tl_truncate.surgery.stack import Stacked, stacked_cut
from tl_truncate.weights.linear import Linear, compute_dtype
from tl_truncate.weights.locate import available, carrier, locate
from tl_truncate.weights.mlp import find_activation
from tl_truncate.weights.site import Matrix, Site

_MLP: tuple[Matrix, ...] = ("W_in", "W_gate", "W_out")
# A shared result may differ from the hooked one by this share of the change, plus rounding.
_AGREEMENT = {torch.float64: 1e-8, torch.float32: 1e-3}
_AGREEMENT_HALF = 0.1


@dataclass(frozen=True, eq=False)
class LayerState:
    """What one uncut block read and wrote for one segment of a tree.

    Attributes:
        before: the residual stream that entered.
        after: the residual stream that left.
        outputs: of the MLP's linears, each behind its bias, by matrix; empty where nothing is shared.
    """

    before: Float[Tensor, "batch pos d_model"]
    after: Float[Tensor, "batch pos d_model"]
    outputs: dict[Matrix, Float[Tensor, "batch pos width"]]

    def suffix(self, positions: int) -> "LayerState":
        """The last positions alone."""
        outputs = {matrix: value[:, -positions:] for matrix, value in self.outputs.items()}
        return LayerState(self.before[:, -positions:], self.after[:, -positions:], outputs)

    def row(self, place: int) -> "LayerState":
        """One row alone."""
        own = slice(place, place + 1)
        outputs = {matrix: value[own] for matrix, value in self.outputs.items()}
        return LayerState(self.before[own], self.after[own], outputs)


def shared_matrices(model: Any, layer: int, sites: Sequence[Site]) -> tuple[Matrix, ...]:
    """The linears whose outputs are worth keeping for cuts of these sites of a block."""
    wanted = {site.matrix for site in sites}
    if any(cut.site.layer == layer for cut in active_cuts(model)):
        return ()  # cuts that are already at work in this block act through hooks alone
    if not wanted & set(_MLP) or "W_out" not in available(model, layer):
        return ()
    if wanted <= {"W_out"}:
        return ("W_out",)
    return tuple(matrix for matrix in _MLP if matrix in available(model, layer))


@torch.no_grad()
def observe(
    replayer: Replayer, layer: int, resids: Streams, passed: Passed, matrices: Sequence[Matrix]
) -> tuple[LayerState, ...]:
    """Runs one block as it is, and keeps what its cuts can share, for each segment."""
    model = replayer.model
    outputs: dict[Matrix, list[Tensor]] = {matrix: [] for matrix in matrices}
    with ExitStack() as stack:
        for matrix in matrices:
            point = locate(model, Site(layer, matrix)).output.module
            stack.callback(point.register_forward_hook(partial(_keep, outputs[matrix])).remove)
        after = replayer.blocks(layer, resids, passed)
    states = []
    for place, (before, left) in enumerate(zip(resids, after, strict=True)):
        # OPT's MLP lays all positions of all rows one behind the other.
        own = {
            matrix: values[place].reshape(*before.shape[:2], -1)
            for matrix, values in outputs.items()
            if len(values) == len(resids)
        }
        states.append(LayerState(before, left, own))
    return tuple(states)


def _keep(values: list[Tensor], module: Any, args: Any, value: Tensor) -> None:
    values.append(value)


def entered(states: Sequence[LayerState]) -> Streams:
    """What entered the block."""
    return tuple(state.before for state in states)


def left(states: Sequence[LayerState]) -> Streams:
    """What left it."""
    return tuple(state.after for state in states)


class SiteReplay:
    """All cuts of one site, from the kept work of its block where that is the same as through hooks.

    Args:
        replayer: of the model.
        site: that is cut.
        edits: of its weight, one for each cut.
    """

    def __init__(self, replayer: Replayer, site: Site, edits: Stacked) -> None:
        self._replayer = replayer
        self._model = replayer.model
        self._site = site
        linear = carrier(self._model, site)
        self._edits = edits.moved(linear.device, compute_dtype(linear.dtype))
        self.shares = False
        # What the cuts of the site share of their work on a batch, as long as its state is there.
        self._coefficients: weakref.WeakKeyDictionary[LayerState, Tensor | None] = (
            weakref.WeakKeyDictionary()
        )

    def try_sharing(self, states: Sequence[LayerState], passed: Passed) -> bool:
        """Shares the block's work from now on, if one row says that the result is that of the hooks.

        Args:
            states: of the segments of one row.
            passed: the same row's way.
        """
        changing = [place for place, edit in enumerate(self._edits.edits) if not edit.is_identity]
        self.shares = (
            all(map(self._can_share, states))
            and all(map(self._rewrites, states))
            and self._agrees(states, passed, changing[0] if changing else 0)
        )
        return self.shares

    @torch.no_grad()
    def _rewrites(self, state: LayerState) -> bool:
        """Whether the uncut MLP's output is what the activation and W_out make of what was seen.

        A cut that leaves nothing says nothing of what lies between both, such as a norm.
        """
        if self._site.matrix == "W_out":
            return True
        uncut = state.outputs["W_out"]
        written = self._write(state.outputs[self._site.matrix][None], state)[0]
        gap = (in_compute_precision(written) - in_compute_precision(uncut)).abs().max()
        return bool(gap <= _share(uncut.dtype) * uncut.abs().max())

    @torch.no_grad()
    def _agrees(self, states: Sequence[LayerState], passed: Passed, place: int) -> bool:
        """Whether a cut's shared result is that of the hooks, number by number."""
        edits = self._edits.part(slice(place, place + 1))
        with truncated(self._model, stacked_cut(self._site, edits)):
            hooked = torch.cat(self._replayer.blocks(self._site.layer, entered(states), passed), 1)
        uncut = torch.cat(left(states), 1)
        after = torch.cat([self._after_cuts(state, edits) for state in states], 1)
        # Both are rounded as numbers of the stream are, of which a few may be much larger than the rest.
        rounding = 16 * torch.finfo(uncut.dtype).eps * torch.maximum(uncut.abs(), hooked.abs())
        allowed = _share(uncut.dtype) * (hooked - uncut).abs().max()
        return bool(((after - hooked).abs() <= allowed + rounding).all())

    @torch.no_grad()
    def logits(
        self, states: Sequence[LayerState], passed: Passed, which: slice = slice(None)
    ) -> tuple[Tensor, ...]:
        """Logits at the answers' positions under each cut, one after the other: a tall batch.

        Args:
            states: of the tree's segments, from `observe`.
            passed: the way of the tree's rows.
            which: of the site's cuts.

        Returns:
            For each leaf `[tall, positions, d_vocab]`.
        """
        layer, last = self._site.layer, self._replayer.last
        edits = self._edits.part(which)
        if self.shares:
            wanted = _at_answers(states, passed) if layer == last else states
            changed = tuple(self._after_cuts(state, edits) for state in wanted)
            return self._replayer.upwards(layer + 1, changed, passed)
        tall = copied(entered(states), len(edits.edits))
        with truncated(self._model, stacked_cut(self._site, edits)):
            return self._replayer.upwards(layer, tall, passed)

    def _can_share(self, state: LayerState) -> bool:
        site = self._site
        if site.matrix not in state.outputs or "W_out" not in state.outputs or self._edits.needs_input:
            return False
        return site.matrix == "W_out" or find_activation(self._model, site.layer) is not None

    def _after_cuts(self, state: LayerState, edits: Stacked) -> Float[Tensor, "tall pos d_model"]:
        """The residual stream behind the block: what left it, plus the change of the MLP's output."""
        own = state.outputs[self._site.matrix]
        bias = _bias(locate(self._model, self._site), compute_dtype(own.dtype))
        precise = in_compute_precision(own)
        if state not in self._coefficients:
            self._coefficients[state] = self._edits.coefficients(precise, bias)
        cut = edits.each(precise, bias, self._coefficients[state]).to(own.dtype)
        uncut = state.outputs["W_out"]
        cut = cut.view(len(edits.edits), *own.shape)
        written = cut if self._site.matrix == "W_out" else self._write(cut, state)
        change = in_compute_precision(written).sub_(in_compute_precision(uncut))
        return change.add_(state.after).to(state.after.dtype).view(-1, *uncut.shape[1:])

    def _write(
        self, cut: Float[Tensor, "edits batch pos d_mlp"], state: LayerState
    ) -> Float[Tensor, "edits batch pos d_model"]:
        """The MLP's outputs from the cut pre-activations of one branch."""
        layer, matrix = self._site.layer, self._site.matrix
        activation = find_activation(self._model, layer)
        assert activation is not None
        gate = cut if matrix == "W_gate" else state.outputs.get("W_gate")
        post = activation.post(cut if matrix == "W_in" else state.outputs["W_in"], gate)
        out = locate(self._model, Site(layer, "W_out"))
        rows, bias = post.reshape(-1, post.shape[-1]), _bias(out, post.dtype)
        if out.is_quantised:  # as its own kernel rounds
            written: Tensor = out.stored.module(rows)
            return written.view(*cut.shape[:-1], -1)
        product = rows @ out.weight() if bias is None else torch.addmm(bias, rows, out.weight())
        return product.view(*cut.shape[:-1], -1)


def _share(dtype: torch.dtype) -> float:
    return _AGREEMENT.get(dtype, _AGREEMENT_HALF)


def _at_answers(states: Sequence[LayerState], passed: Passed) -> list[LayerState]:
    """What of the last block's states is unembedded; one position where rows go on, which is not."""
    pairs = zip(states, passed.parts, strict=True)
    return [state.suffix(max(1, part.positions)) for state, part in pairs]


def _bias(linear: Linear, dtype: torch.dtype) -> Tensor | None:
    bias = linear.bias()
    return None if bias is None else bias.to(dtype)
