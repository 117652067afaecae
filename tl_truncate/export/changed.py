"""Which tensors of the Hugging Face model some cuts change, and into what."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.export.published.home import Home
from tl_truncate.export.published.places import Place
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.edited import cut_weight, cuts_in
from tl_truncate.surgery.hooks import truncated
from tl_truncate.weights.linear import Linear
from tl_truncate.weights.locate import carrier, locate
from tl_truncate.weights.site import Site


@dataclass(frozen=True)
class Part:
    """One matrix of a tensor, and the cuts that are made in it."""

    linear: Linear
    place: Place
    cuts: tuple[SiteCut, ...]


@dataclass(frozen=True)
class Changed:
    """One tensor of the Hugging Face model that is changed.

    Attributes:
        model: that the cuts are made in.
        name: of the tensor.
        parts: the matrices of it that are cut: queries, keys and values may lie in one tensor.
    """

    model: Any
    name: str
    parts: tuple[Part, ...]

    @property
    def module(self) -> str:
        """That owns the tensor."""
        return self.parts[0].place.module

    @property
    def inputs_first(self) -> bool:
        """Whether the tensor is stored `[n_in, n_out]`."""
        return self.parts[0].place.inputs_first

    @property
    def cuts(self) -> tuple[SiteCut, ...]:
        """All that are made in it."""
        return tuple(cut for part in self.parts for cut in part.cuts)

    def exact(self, stored: Tensor) -> Tensor:
        """The tensor with the cuts in float64, in its own layout.

        Args:
            stored: as it is in the file; it is left as it is.
        """
        changed = stored.detach().cpu().to(torch.float64, copy=True)
        turned = changed if self.inputs_first else changed.T
        for part, _, after in self._both():
            turned[:, part.place.outputs] = after.cpu()
        return changed

    def difference(self, width: int) -> tuple[Float[Tensor, "n_in width"], float]:
        """What the cuts add, in float64, and the largest singular value of what they are made in.

        Args:
            width: how many outputs the tensor has.
        """
        added, size = None, 0.0
        for part, before, after in self._both():
            if added is None:
                added = before.new_zeros(before.shape[0], width)
            added[:, part.place.outputs.to(added.device)] = after - before
            size = max(size, _norm(before))
        assert added is not None
        return added, size

    def _both(self) -> Iterator[tuple[Part, Tensor, Tensor]]:
        for part in self.parts:
            before = cut_weight(self.model, part.linear, (), torch.float64)
            after = cut_weight(self.model, part.linear, part.cuts, torch.float64)
            _require_known(part, after - before)
            yield part, before, after


def _norm(matrix: Tensor) -> float:
    """The largest singular value, from the smaller of both squares."""
    square = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return float(torch.linalg.eigvalsh(square)[-1].clamp(min=0).sqrt())


def _require_known(part: Part, added: Tensor) -> None:
    """Refuses to change an output that has a double, of which it is not known which one it is."""
    doubtful = part.place.doubtful.to(added.device)
    if bool((added[:, doubtful].abs() > 1e-12).any()):
        raise ValueError(
            f"The outputs of {part.linear.site} must be told apart by their numbers, but "
            f"{int(doubtful.sum())} of them have the same as others in {part.place.name}, and the cut "
            "changes them. Cut another matrix of the layer."
        )


def changed_tensors(model: Any, cuts: Sequence[SiteCut], home: Home) -> list[Changed]:
    """The tensors that some cuts change; what they become is computed when it is asked for.

    Args:
        model: that the cuts are made in.
        cuts: any number.
        home: of the model.

    Raises:
        ValueError: if a cut addresses nothing, is no change of the weight alone, or cannot be made
            together with another.
    """
    chosen = Cuts(cuts)
    require_of_weights(chosen)
    with truncated(model, chosen, weights=True):  # refuses what cannot be made, and makes nothing yet
        pass
    # By its weight: of two cuts of single heads, each is made in the weight of all.
    weights = {(made.layer, made.matrix) for made in (carrier(model, cut.site).site for cut in chosen)}
    parts: dict[str, list[Part]] = {}
    for layer, matrix in sorted(weights):
        linear = locate(model, Site(layer, matrix))
        place = home.place(linear)
        own = tuple(cuts_in(model, linear, chosen))
        parts.setdefault(place.name, []).append(Part(linear, place, own))
    return [Changed(model, name, tuple(own)) for name, own in parts.items()]


def require_of_weights(cuts: Sequence[SiteCut]) -> None:
    """Refuses cuts that depend on the tokens, before any work.

    Raises:
        ValueError: if there is one.
    """
    reading = [cut for cut in cuts if cut.reads_tokens]
    if reading:
        raise ValueError(
            "A cut must be a change of the weights alone to be taken elsewhere, but this one depends on "
            f"the tokens: {reading[0]!r}. Take tlt.GlobalDirection, or a targeted truncation: "
            "tlt.Cut(site, keep=shares.without_most_global(64))."
        )
