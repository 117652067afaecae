"""Running a model without the global part of an MLP's output, or without the in-context part."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from tl_truncate.checks import whole
from tl_truncate.decompose.means.stored import StoredMeans
from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.decompose.padding import Unpadded
from tl_truncate.decompose.parts import Method
from tl_truncate.decompose.passes import outputs_of
from tl_truncate.decompose.reader import Pass, Reader
from tl_truncate.decompose.residual import require_additive
from tl_truncate.decompose.split import Split, global_of
from tl_truncate.surgery.cut import SiteCut, fill
from tl_truncate.surgery.edit import Edit
from tl_truncate.surgery.hooks import truncated
from tl_truncate.surgery.surgeon import CutNotApplied
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.locate import find_sites, locate
from tl_truncate.weights.site import Site

Model = TypeVar("Model")
Means = TokenMeans | StoredMeans


@dataclass(frozen=True, repr=False)
class _PartRemoval(SiteCut):
    """Removes one part of an MLP's output as the model runs: `y -> y - strength * part`."""

    split: Split

    def __init__(
        self,
        site: Site | str | int,
        method: Method = "token_mean",
        *,
        means: Means | None = None,
        from_layer: int = 0,
        keep: Keep | int | float = 0.1,
        only: tuple[str, ...] | None = None,
        strength: float = 1.0,
        split: Split | Mapping[str, Any] | None = None,
    ) -> None:
        layer = whole(site)
        place = Site.parse(cast(Site | str, site)) if layer is None else Site(layer, "W_out")
        if place.matrix != "W_out":
            raise ValueError(f"The site must be an MLP's W_out, or its layer, got {place}.")
        if split is None:
            split = Split(method, means, from_layer, keep, only)
        elif not isinstance(split, Split):
            split = Split.from_json(split)
        fill(self, site=place, split=split, strength=strength)

    @property
    def reads_tokens(self) -> bool:
        """Always: what is removed depends on them, and position 0 is left alone."""
        return True

    @property
    def is_drawn(self) -> bool:
        """Whether tokens are exchanged at random."""
        return self.split.exchange is not None

    @property
    def kind(self) -> str:
        """Its class, or where tokens are exchanged that kind of control."""
        return "ExchangedTokens" if self.is_drawn else type(self).__name__

    @property
    def label(self) -> str:
        """The method, and the terms if they are not all."""
        only = "" if self.split.only is None else f" ({', '.join(self.split.only)})"
        return self.split.method + only

    def controls(self, seed: int) -> dict[str, SiteCut]:
        """With token means, the same removal of other tokens' means; of other methods none."""
        if self.split.method != "token_mean" or self.is_drawn:
            return {}
        other = replace(self.split, exchange=seed)
        return {"ExchangedTokens": type(self)(self.site, split=other, strength=self.strength)}

    def without_draw(self) -> dict[str, Any]:
        """The cut as plain data; with exchanged tokens without the seed that exchanges them."""
        data = self.to_json()
        if self.is_drawn:
            data["split"] = {**data["split"], "exchange": "drawn"}
        return data

    def kept_rank(self, model: Any) -> int:
        """All: no component is removed."""
        return min(locate(model, self.site).shape)

    def edit(self, model: Any) -> Edit:
        """The subtraction of the part."""
        split = self.split.ready()
        split.check(model, [self.site.layer])
        require_additive(model, [self.site.layer])
        return _PartEdit(_Source(model, self.site.layer, split), self._removes_global())

    @abstractmethod
    def _removes_global(self) -> bool:
        """Whether it is the global part that goes."""


@dataclass(frozen=True, repr=False, init=False)
class GlobalRemoval(_PartRemoval):
    """Removes the global part of an MLP's output, `y -> y - strength * global`, never at position 0.

    A cut like any other: `evaluate`, `sweep`, `search` and `truncated` take it, alone or beside cuts. It
    reads the tokens as they pass; `context_ablation` and `own_path` take further passes to find what to
    remove, of the model with its other cuts but without removals and hooks.

    Args:
        site: the layer, or its W_out.
        method: as for `decompose_mlp`.
        means: fitted, for `token_mean`.
        from_layer: for `context_ablation`.
        keep: for `spectral`.
        only: which global terms are removed, such as `("token",)` without the corpus mean; all by
            default.
        strength: 1 removes, 0.5 halves, -1 doubles.

    Raises:
        ValueError: if an argument does not fit.

    Examples:
        >>> GlobalRemoval(1, "own_path")
        GlobalRemoval(site='blocks.1.mlp.W_out', split='own_path')
    """

    def _removes_global(self) -> bool:
        return True


@dataclass(frozen=True, repr=False, init=False)
class InContextRemoval(_PartRemoval):
    """Removes the in-context part of an MLP's output and leaves the global one; as `GlobalRemoval`.

    Examples:
        >>> InContextRemoval(1, "spectral", keep=8)
        InContextRemoval(site='blocks.1.mlp.W_out', split='spectral', keep=Rank(k=8))
    """

    def _removes_global(self) -> bool:
        return False


class _Source:
    """The global part of one MLP's output in the pass that is going on."""

    def __init__(self, model: Any, layer: int, split: Split) -> None:
        self._model, self._layer, self._split = model, layer, split
        ahead = self._ahead if split.method in ("context_ablation", "own_path") else None
        self.reader = Reader(model, layer, ahead)

    @torch.no_grad()
    def _ahead(self, now: Pass) -> Tensor:
        """Of each prompt as if it was alone, whatever it is padded with."""
        site, rows = Site(self._layer, "W_out"), Unpadded.from_mask(now.tokens, now.mask)
        output = outputs_of(self._model, rows.batch.tokens, [site])[site]
        return rows.put(self._terms(rows.batch.tokens, output))

    def _terms(self, tokens: Tensor, output: Tensor) -> Tensor:
        terms = self._split.terms(self._model, tokens, {self._layer: output})
        return global_of(self._split, terms[self._layer])

    def part(
        self, output: Float[Tensor, "batch pos d_model"], now: Pass, found: Tensor | None
    ) -> Tensor:
        """The global part of an output in a pass, with what has been found ahead of it."""
        means = self._split.means
        if found is None and isinstance(means, TokenMeans):
            tokens = now.tokens if now.known is None else now.known
            if now.known is None and means.has_pairs(Site(self._layer, "W_out")):
                raise CutNotApplied(
                    "Means with bigrams must see each token after the one before it, but the pass goes "
                    "on from one that was made outside. Run whole prompts, or fit without bigrams."
                )
            known = global_of(self._split, self._split.token_terms(self._layer, tokens))
            found = known[:, -output.shape[1] :]
        elif found is None:
            found = self._terms(now.tokens, output)
        return found.to(output.device, output.dtype)


@dataclass(frozen=True, eq=False)
class _PartEdit(Edit):
    """The subtraction of one part of an MLP's output."""

    source: _Source
    of_global: bool

    @property
    def needs_input(self) -> bool:
        """Never: the output and the tokens are enough."""
        return False

    @property
    def is_identity(self) -> bool:
        """Never."""
        return False

    @property
    def is_of_weight(self) -> bool:
        """Never: the part depends on the tokens."""
        return False

    def watch(self) -> Iterator[RemovableHandle]:
        """The reader's hooks."""
        return self.source.reader.watch()

    def moved(self, device: torch.device, dtype: torch.dtype) -> "_PartEdit":
        """Itself: the part goes where the output is."""
        return self

    def kept(self, u: Tensor, x: Tensor | None) -> Tensor:
        """The other part."""
        return self.apply(u, None, x, 1.0)

    def apply(self, y: Tensor, bias: Tensor | None, x: Tensor | None, strength: float) -> Tensor:
        """The output less the part, where it acts."""
        if self.source.reader.asleep:
            return y
        now, found = self.source.reader.now(y)
        rows = y.reshape(*now.tokens.shape, -1)  # OPT's MLP has all positions of all rows in one axis
        whole = self.source.part(rows, now, found)
        part = whole if self.of_global else rows - whole
        return (rows - strength * part * now.acting.to(y.device)[..., None]).reshape(y.shape)


def layers_of(model: Any, layers: int | Sequence[int]) -> list[int]:
    """The layers that are meant by one or several, counted from the start."""
    layer = whole(layers)
    chosen = cast(Sequence[int], layers) if layer is None else [layer]
    return [site.layer for site in find_sites(model, "W_out", chosen)]


@contextmanager
def _without(
    kind: type[_PartRemoval],
    model: Any,
    layers: int | Sequence[int],
    split: Split,
    strength: float,
) -> Iterator[None]:
    ready = split.ready()
    cuts = [kind(layer, split=ready, strength=strength) for layer in layers_of(model, layers)]
    with truncated(model, cuts):
        yield


@contextmanager
def without_global(
    model: Model,
    layers: int | Sequence[int],
    method: Method = "token_mean",
    *,
    means: Means | None = None,
    from_layer: int = 0,
    keep: Keep | int | float = 0.1,
    only: tuple[str, ...] | None = None,
    strength: float = 1.0,
) -> Iterator[Model]:
    """Runs the model with the global parts of some MLPs' outputs removed, never at position 0.

    `y -> y - strength * global`. Any hook, cache or generation step inside sees the result, and the
    context nests with `truncated`. No gradient passes through what is removed.

    Args:
        model: a HookedTransformer or TransformerBridge.
        layers: whose MLPs.
        method: as for `decompose_mlp`.
        means: fitted, for `token_mean`.
        from_layer: for `context_ablation`.
        keep: for `spectral`.
        only: which global terms are removed, such as `("token",)` without the corpus mean; all by
            default.
        strength: 1 removes, 0.5 halves, -1 doubles.

    Yields:
        The model.

    Raises:
        ValueError: if an argument does not fit, before anything runs.

    Examples:
        >>> means = tlt.TokenMeans.fit(model, tokens, layers=[1], progress=False)
        >>> with tlt.without_global(model, [1], means=means):
        ...     logits = model(tokens)
    """
    split = Split(method, means, from_layer, keep, only)
    with _without(GlobalRemoval, model, layers, split, strength):
        yield model


@contextmanager
def without_in_context(
    model: Model,
    layers: int | Sequence[int],
    method: Method = "token_mean",
    *,
    means: Means | None = None,
    from_layer: int = 0,
    keep: Keep | int | float = 0.1,
    only: tuple[str, ...] | None = None,
    strength: float = 1.0,
) -> Iterator[Model]:
    """Runs the model with the in-context parts of some MLPs' outputs removed, so that the global stay.

    The arguments, and what is raised, are those of `without_global`.

    Examples:
        >>> with tlt.without_in_context(model, 1, "own_path"):
        ...     logits = model(tokens)
    """
    split = Split(method, means, from_layer, keep, only)
    with _without(InContextRemoval, model, layers, split, strength):
        yield model
