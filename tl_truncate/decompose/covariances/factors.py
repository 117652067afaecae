"""The two factors of a weight's curvature, fitted on a corpus in one pass there and back."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tl_truncate.checks import natural
from tl_truncate.corpora.corpus import Corpus, Filled
from tl_truncate.decompose.covariances.directions import Directions, directions_of
from tl_truncate.decompose.covariances.file import Sums, read_sums, write_sums
from tl_truncate.decompose.covariances.fitted import Covariances
from tl_truncate.decompose.covariances.gradients import Labels, as_labels, inputs_and_gradients
from tl_truncate.decompose.covariances.moments import chosen_sites
from tl_truncate.decompose.covariances.watching import require_finite
from tl_truncate.decompose.fits.streaming import Reading, Stream
from tl_truncate.weights.linear import Linear
from tl_truncate.weights.locate import locate
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.gram import add_lower_gram, mirror, no_gram

_INPUTS, _GRADIENTS = "inputs", "gradients"
_TOLD = {_INPUTS: "reads", _GRADIENTS: "is told by its gradient"}


@dataclass(frozen=True, kw_only=True)
class FactorOptions(Reading):
    """How factors are fitted; `CurvatureFactors.fit` says what each option means."""

    batch_size: int = 4
    labels: Labels = "model"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", as_labels(self.labels))
        object.__setattr__(self, "seed", natural("seed", self.seed))


@dataclass(frozen=True, eq=False, repr=False)
class CurvatureFactors(Covariances):
    """The factors of a weight's curvature, `A = E[x^T x]` and `G = E[g^T g]`.

    x is what the linear reads, g the gradient of the next token's loss at what it writes. Their product
    `A (x) G` stands for the Hessian of the loss in the weight: the loss grows by `a_i g_j / 2` times the
    square of a change along the i-th eigenvector of A and the j-th of G.

    Attributes:
        sums: `sums["inputs"][site]` is `sum_t x_t^T x_t`, `sums["gradients"][site]` `sum_t g_t^T g_t`.
        positions: that were summed over, those with a next token in their row.
        record: model, weights, versions, shapes, corpus.

    Source: Martens and Grosse 2015 (arXiv 1503.05671).
    """

    told: ClassVar[str] = "factors"
    of_outputs: ClassVar[str] = _GRADIENTS

    @classmethod
    def fit(
        cls,
        model: Any,
        corpus: Corpus,
        *,
        sites: Sequence[Site | str] | None = None,
        labels: Labels = "model",
        seed: int = 0,
        mask: Tensor | None = None,
        max_tokens: int | None = None,
        prepend_bos: bool | None = None,
        batch_size: int = 4,
        path: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> "CurvatureFactors":
        """Sums up inputs and gradients, in one pass there and back over a corpus, in float64.

        The loss is the cross-entropy summed over a row, not its mean over a batch: so no gradient
        depends on the company of its row, and a common factor would not change which entries are kept.
        With `labels="model"` the next token is drawn from the model's own prediction at each position,
        so that G is that of the Fisher matrix, the curvature of the loss. With `labels="data"` it is
        the corpus' own; then G vanishes where the model is right and is led by what surprises it,
        which is no curvature (Kunstner et al. 2019). The published code has both, the data's by
        default, and draws in the command that its authors give as typical.

        Memory and file: `8 (n_in^2 + n_out^2)` bytes a site, whatever the corpus. While a batch is read,
        the activations and gradients of all sites besides, and logits of all positions thrice.

        Args:
            model: a HookedTransformer or TransformerBridge in evaluation mode.
            corpus: texts, a tensor of tokens `[passage, pos]`, the path of a text file with an empty
                line between passages, or any iterator of texts, token numbers or a dataset's rows.
            sites: of any kind, single heads too; W_in and W_out of every layer by default.
            labels: `model` or `data`.
            seed: of the tokens that are drawn; each row has numbers of its own, in whatever batch.
            mask: for a tensor, False or 0 at padding.
            max_tokens: of a row; longer passages go on in further rows.
            prepend_bos: for texts; overrides the model's default.
            batch_size: rows in a pass.
            path: a file for the sums, written now and then, at the end, and when interrupted. Given
                again with the same corpus and the same weights, the fit goes on behind the rows that it
                has.
            progress: shows a bar.

        Returns:
            The factors.

        Raises:
            ValueError: if an argument does not fit, the corpus has no row of two tokens, a site's input
                and output are not there as such, something is not finite, or the file holds another fit.
            TypeError: if the corpus is of no known kind.

        Source: goodfire-ai/memorization_kfac, data/collect_kfac_multilayer.py, whose mean over a batch
        is left out.

        Examples:
            >>> factors = tlt.CurvatureFactors.fit(model, tokens, sites=["blocks.1.mlp.W_out"])
            >>> factors.inputs("blocks.1.mlp.W_out").shape, factors.gradients("blocks.1.mlp.W_out").shape
            (torch.Size([48, 48]), torch.Size([32, 32]))
        """
        chosen = chosen_sites(model, sites)
        options = FactorOptions(
            labels=labels,
            seed=seed,
            max_tokens=max_tokens,
            prepend_bos=prepend_bos,
            batch_size=batch_size,
        )
        stream = _FactorsStream(model, chosen, options)
        record = stream.run(corpus, mask=mask, path=path, progress=progress)
        if not stream.positions:
            raise ValueError("The corpus must have at least one row of two tokens, got none.")
        factors = cls(stream.sums, stream.positions, record)
        if path is not None:
            factors.save(path)
        return factors

    def inputs(self, site: Site | str) -> Float[Tensor, "n_in n_in"]:
        """`A = E[x^T x]`, in float64."""
        return self.mean(_INPUTS, site)

    def gradients(self, site: Site | str) -> Float[Tensor, "n_out n_out"]:
        """`G = E[g^T g]`, in float64."""
        return self.mean(_GRADIENTS, site)

    def bases(self, site: Site | str) -> tuple[Directions, Directions]:
        """The eigenvectors of A and of G."""
        place = self.require(site)
        if place not in self._known:
            self._known[place] = (
                directions_of(self.inputs(place)),
                directions_of(self.gradients(place)),
            )
        return self._known[place]

    @cached_property
    def _known(self) -> dict[Site, tuple[Directions, Directions]]:
        return {}


class _FactorsStream(Stream):
    """Outer products of inputs and of gradients."""

    told, kind = "curvature factors", "CurvatureFactors"

    def __init__(self, model: Any, sites: tuple[Site, ...], options: FactorOptions) -> None:
        super().__init__(model, sites, options)
        self._labels, self._seed = options.labels, options.seed
        self._linears = [locate(model, site) for site in sites]
        self.origin["shapes"] = {str(linear.site): list(linear.shape) for linear in self._linears}
        self.positions = 0
        self.sums: Sums = {
            _GRADIENTS: {each.site: no_gram(each.shape[1]) for each in self._linears},
            _INPUTS: {each.site: no_gram(each.shape[0]) for each in self._linears},
        }

    def see(self, batch: Filled) -> dict[Site, tuple[Tensor, Tensor]]:
        """What the sites read, and the gradients at what they write."""
        if batch.tokens.shape[1] < 2:
            return {}
        return inputs_and_gradients(self.model, batch, self._linears, self._labels, self._seed)

    def add(self, batch: Filled, seen: dict[Site, tuple[Tensor, Tensor]]) -> None:
        """All positions that have a next token."""
        for place, role in enumerate((_INPUTS, _GRADIENTS)):
            alike: dict[int, list[Linear]] = {}
            for linear in self._linears if seen else ():
                alike.setdefault(id(seen[linear.site][place]), []).append(linear)
            for first, *others in alike.values():
                self._sum(role, seen[first.site][place], first, others)
        self.positions += int(batch.real[:, 1:].sum())

    def _sum(self, role: str, values: Tensor, first: Linear, others: list[Linear]) -> None:
        """Once for linears that read the same, such as W_in and W_gate, if they have done so before."""
        sums = self.sums[role]
        same = [each for each in others if torch.equal(sums[each.site], sums[first.site])]
        for linear in (first, *(each for each in others if each not in same)):
            add_lower_gram(sums[linear.site], values.double())
            require_finite(linear, sums[linear.site], _TOLD[role])
        for linear in same:
            sums[linear.site].copy_(sums[first.site])

    def settle(self) -> None:
        """Puts both triangles right."""
        for by_site in self.sums.values():
            for matrix in by_site.values():
                mirror(matrix)

    def read(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """The sums of a file, and its record."""
        self.positions, self.sums, record = read_sums(path, self.kind)
        return record

    def write(self, path: str | os.PathLike[str], record: dict[str, Any]) -> None:
        """Writes the sums."""
        write_sums(path, self.kind, self.positions, self.sums, record)
