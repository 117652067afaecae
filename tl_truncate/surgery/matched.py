"""The control of cuts that do not choose from the spectrum: as much removed at random, by its norm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from tl_truncate.surgery.controls import of_norm
from tl_truncate.surgery.cut import SiteCut, fill
from tl_truncate.surgery.edit import Projection
from tl_truncate.weights.linear import where_float64_is
from tl_truncate.weights.locate import locate
from tl_truncate.weights.reading import as_stored
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.spectrum import shared_spectrum


@dataclass(frozen=True, repr=False)
class NormMatchedTo(SiteCut):
    """Removes a random component with the Frobenius norm of what another cut removes; as `NormMatched`.

    For cuts that do not choose from the spectrum, so that no `keep` says how much goes.

    Args:
        of: a cut of the weight alone, such as an `OutputPCA`; its site and strength are the control's.
        seed: of the directions; each site draws its own.
        site: of the cut, and no other.
        strength: of the cut by default.

    Raises:
        ValueError: if the site is another; where it is used, if the cut depends on the tokens.

    Examples:
        >>> NormMatchedTo(tlt.Cut("blocks.3.mlp.W_out", keep=0.5), seed=1)
        NormMatchedTo(site='blocks.3.mlp.W_out', of=Cut(site=...), seed=1)
    """

    _always_drawn = True

    of: SiteCut
    seed: int = 0

    def __init__(
        self,
        of: SiteCut | Mapping[str, Any],
        seed: SupportsIndex = 0,
        *,
        site: Site | str | None = None,
        strength: float | None = None,
    ) -> None:
        other = of if isinstance(of, SiteCut) else SiteCut.from_json(dict(of))
        if site is not None and Site.parse(site) != other.site:
            raise ValueError(f"The site of a control must be its cut's, {other.site}, got {site}.")
        dose = other.strength if strength is None else strength
        fill(self, site=other.site, of=other, seed=seed, strength=dose)

    @property
    def kind(self) -> str:
        """That of a cut which chooses from the spectrum."""
        return "NormMatched"

    @property
    def label(self) -> float | int | str:
        """What the cut keeps."""
        return self.of.label

    def controls(self, seed: int) -> dict[str, SiteCut]:
        """None: it is one."""
        return {}

    def kept_rank(self, model: Any) -> int:
        """All but the directions of which anything is removed."""
        edit = self.edit(model)
        return min(locate(model, self.site).shape) - edit.basis.shape[1]

    def edit(self, model: Any) -> Projection:
        """The drawn projection."""
        weight, left = self._both(model)
        square = float((weight - left).square().sum())
        return of_norm(shared_spectrum(model, self.site), square, f"{self.seed} {self.site}")

    def equals_the_cut(self, model: Any) -> bool:
        """Whether the cut removes nothing, or all."""
        weight, left = self._both(model)
        return torch.equal(weight, left) or not bool(left.any())

    def _both(self, model: Any) -> tuple[Tensor, Tensor]:
        """The weight, and what the cut leaves of it, in float64."""
        edit = self.of.edit(model)
        if not edit.is_of_weight:
            raise ValueError(
                f"The cut must be a change of the weight alone to be matched, got {self.of!r}."
            )
        with as_stored():
            weight = where_float64_is(locate(model, self.site).weight()).double()
        return weight, edit.moved(weight.device, weight.dtype).of_weight(weight, 1.0)
