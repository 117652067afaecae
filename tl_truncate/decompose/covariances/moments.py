"""Second moments of what sites write, fitted on a corpus in one pass."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.corpora.corpus import Corpus, Filled
from tl_truncate.decompose.covariances.directions import Directions, directions_of
from tl_truncate.decompose.covariances.file import Sums, read_sums, write_sums
from tl_truncate.decompose.covariances.fitted import Covariances
from tl_truncate.decompose.covariances.watching import (
    Seen,
    columns_of,
    positions_of,
    require_finite,
    require_visible,
    watching,
)
from tl_truncate.decompose.fits.streaming import Reading, Stream
from tl_truncate.decompose.passes import ending_after
from tl_truncate.replay.calls import last_logits
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.weights.identity.content import content_key
from tl_truncate.weights.linear import Linear
from tl_truncate.weights.locate import carrier, find_sites, locate
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.gram import add_lower_gram, mirror, no_gram
from tl_truncate.weights.spectra.spectrum import shared_spectrum

_ROLE = "outputs"


@dataclass(frozen=True, eq=False, repr=False)
class OutputMoments(Covariances):
    """Uncentred second moments of what sites write without their bias, `E[u^T u]`, `u = x W`.

    All positions count but padding: position 0 and attention sinks too, since a cut is made at them as
    well. A sink's output is often so long that it is the first eigenvector by itself.

    Attributes:
        sums: `sums["outputs"][site]` is `sum_t u_t^T u_t`, `[n_out, n_out]` in float64.
        positions: that were summed over.
        record: model, weights, versions, shapes, corpus.
    """

    told: ClassVar[str] = "moments"
    of_outputs: ClassVar[str] = _ROLE

    @classmethod
    def fit(
        cls,
        model: Any,
        corpus: Corpus,
        *,
        sites: Sequence[Site | str] | None = None,
        mask: Tensor | None = None,
        max_tokens: int | None = None,
        prepend_bos: bool | None = None,
        batch_size: int = 16,
        path: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> "OutputMoments":
        """Sums up what sites write, in one pass over a corpus, in float64.

        Memory and file: `8 n_out^2` bytes a site, whatever the corpus, and `8 n_in^2` more while it is
        read where the matrix is wider than it is tall. There what is read is summed up instead of what
        is written, `W^T (sum_t x_t^T x_t) W`, which is the same and takes less time.

        Args:
            model: a HookedTransformer or TransformerBridge in evaluation mode.
            corpus: texts, a tensor of tokens `[passage, pos]`, the path of a text file with an empty
                line between passages, or any iterator of texts, token numbers or a dataset's rows.
            sites: of any kind, single heads too; W_in and W_out of every layer by default.
            mask: for a tensor, False or 0 at padding.
            max_tokens: of a row; longer passages go on in further rows.
            prepend_bos: for texts; overrides the model's default.
            batch_size: rows in a pass.
            path: a file for the sums, written now and then, at the end, and when interrupted. Given
                again with the same corpus and the same weights, the fit goes on behind the rows that it
                has.
            progress: shows a bar.

        Returns:
            The moments.

        Raises:
            ValueError: if an argument does not fit, the corpus is empty, a site's input and output are
                not there as such, something is not finite, or the file holds another fit.
            TypeError: if the corpus is of no known kind.

        Source: the objective of activation-weighted truncation, such as ActSVD (Wei et al. 2024, arXiv
        2402.05162).

        Examples:
            >>> moments = tlt.OutputMoments.fit(model, tokens, sites=["blocks.1.mlp.W_out"])
            >>> moments.of("blocks.1.mlp.W_out").shape, moments.positions
            (torch.Size([32, 32]), 14)
        """
        chosen = chosen_sites(model, sites)
        options = Reading(max_tokens=max_tokens, prepend_bos=prepend_bos, batch_size=batch_size)
        stream = _MomentsStream(model, chosen, options)
        record = stream.run(corpus, mask=mask, path=path, progress=progress)
        if not stream.positions:
            raise ValueError("The corpus must have at least one token, got none.")
        moments = cls(stream.sums, stream.positions, record)
        if path is not None:
            moments.save(path)
        return moments

    def of(self, site: Site | str) -> Float[Tensor, "n_out n_out"]:
        """`E[u^T u]`, in float64."""
        return self.mean(_ROLE, site)

    def eigenvalues(self, site: Site | str) -> Float[Tensor, " rank"]:
        """Mean squares along the eigenvectors of `E[u^T u]`, largest first, one for each component."""
        place = self.require(site)
        if place not in self._known:
            values = torch.linalg.eigvalsh(self.of(place)).flip(0).clamp_min(0)
            self._known[place] = values[: min(self.shape(place))]
        found: Tensor = self._known[place]
        return found

    def directions(self, model: Any, site: Site | str) -> Directions:
        """The eigenvectors of `E[u^T u]`, in the row space of the weight.

        Args:
            model: that the moments are of.
            site: whose outputs.

        Raises:
            ValueError: if the moments are not of this weight.
        """
        place = self.require_of(model, site)
        weight = locate(model, place).weight()
        wide = weight.shape[0] < weight.shape[1]
        key = (place, content_key(weight) if wide else "")
        if key not in self._known:
            rows = shared_spectrum(model, place).directions if wide else None
            self._known[key] = directions_of(self.of(place), rows)
        found: Directions = self._known[key]
        return found

    @cached_property
    def _known(self) -> dict[Any, Any]:
        return {}


def chosen_sites(model: Any, sites: Sequence[Site | str] | None) -> tuple[Site, ...]:
    """Sites by name, which the model must have; W_in and W_out of every layer by default.

    Raises:
        ValueError: if it lacks one, or none is named.
    """
    found = find_sites(model) if sites is None else [Site.parse(site) for site in sites]
    if not found:
        raise ValueError("There must be at least one site, got none. Leave sites=[] away for all MLPs.")
    for site in found:
        require_visible(locate(model, site))
    return tuple(sorted(set(found)))


class _MomentsStream(Stream):
    """Outer products of outputs; or of inputs, where these are narrower, until they are settled."""

    told, kind = "output moments", "OutputMoments"

    def __init__(self, model: Any, sites: tuple[Site, ...], options: Reading) -> None:
        super().__init__(model, sites, options)
        self._linears = [locate(model, site) for site in sites]
        self.origin["shapes"] = {str(linear.site): list(linear.shape) for linear in self._linears}
        self.positions = 0
        self.sums: Sums = {_ROLE: {each.site: no_gram(each.shape[1]) for each in self._linears}}
        self._by_input = [each for each in self._linears if _is_summed_by_input(model, each)]
        self._by_output = [each for each in self._linears if each not in self._by_input]
        self._pending = {linear.site: no_gram(linear.shape[0]) for linear in self._by_input}

    def see(self, batch: Filled) -> Seen:
        """What the sites read or write."""
        last = max(site.layer for site in self.sites)
        with (
            watching(batch.tokens, self._by_input, self._by_output) as seen,
            ending_after(self.model, last),
        ):
            last_logits(self.model, batch.tokens, 1)
        return seen

    def add(self, batch: Filled, seen: Seen) -> None:
        """All positions that are no padding."""
        for linear in self._by_input:
            x = positions_of(seen.input(linear), batch.real).double()
            add_lower_gram(self._pending[linear.site], x)
            require_finite(linear, self._pending[linear.site], "reads")
        for linear in self._by_output:
            u = positions_of(columns_of(linear, seen.output(linear), batch.tokens), batch.real).double()
            bias = linear.bias()
            u = u if bias is None else u - bias.to(u.device).double()
            add_lower_gram(self.sums[_ROLE][linear.site], u)
            require_finite(linear, self.sums[_ROLE][linear.site], "writes")
        self.positions += int(batch.real.sum())

    def settle(self) -> None:
        """`W^T C W` of what was read since."""
        for linear in self._by_input:
            pending = mirror(self._pending[linear.site])
            weight = linear.weight().to(pending.device).double()
            self.sums[_ROLE][linear.site] += weight.T @ pending @ weight
            pending.zero_()
        for matrix in self.sums[_ROLE].values():
            mirror(matrix)

    def read(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """The sums of a file, and its record."""
        self.positions, self.sums, record = read_sums(path, self.kind)
        return record

    def write(self, path: str | os.PathLike[str], record: dict[str, Any]) -> None:
        """Writes the sums."""
        write_sums(path, self.kind, self.positions, self.sums, record)


def _is_summed_by_input(model: Any, linear: Linear) -> bool:
    """Whether x is summed up, from which x W is known: where it is narrower, and W alone acts on it."""
    site = linear.site
    # A cut of a circuit is made in one of its weights.
    made_in = [carrier(model, cut.site).site for cut in active_cuts(model)]
    at_work = any((each.layer, each.matrix) == (site.layer, site.matrix) for each in made_in)
    points = [point for point in (linear.output, linear.result) if point is not None]
    changed = at_work or any(getattr(point.module, "fwd_hooks", None) for point in points)
    if linear.writes_one_head:
        if changed:
            raise ValueError(
                f"The output of {site} must be visible by itself, but one head of W_O is only seen "
                "summed with the others, and a cut of W_O or a hook is at work there. Fit all heads "
                "jointly, or outside."
            )
        return True
    return linear.shape[0] < linear.shape[1] and not changed
