"""How outputs are divided: a method with its settings, and the terms that it gives."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import torch
from jaxtyping import Int64
from torch import Tensor

from tl_truncate.checks import whole
from tl_truncate.decompose.ablation import ablated_outputs
from tl_truncate.decompose.fits.origin import warn_of_another_weight
from tl_truncate.decompose.means.stored import StoredMeans
from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.decompose.own_path import own_path
from tl_truncate.decompose.parts import Method
from tl_truncate.surgery.cut import kept_components
from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.weights.keep import Keep, as_keep
from tl_truncate.weights.locate import find_sites, locate
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.spectrum import shared_spectrum

Terms = dict[str, Tensor]
#: The terms that make up the global part, by method.
GLOBAL_TERMS: dict[Method, tuple[str, ...]] = {
    "token_mean": ("corpus_mean", "token", "bigram"),
    "context_ablation": ("ablated",),
    "own_path": ("own", "bias"),
    "spectral": ("removed", "bias"),
}


@dataclass(frozen=True, repr=False)
class Split:
    """How outputs are divided.

    Attributes:
        method: one of the four.
        means: for `token_mean`.
        from_layer: for `context_ablation`, the first block whose attention is masked.
        keep: for `spectral`, what counts as in-context.
        only: which of the method's global terms count as global; all by default.
        exchange: a seed with which each token is exchanged for another one that was seen, as a control:
            what is taken is some token's mean, but not this one's. For `token_mean`.
    """

    method: Method = "token_mean"
    means: TokenMeans | StoredMeans | None = None
    from_layer: int = 0
    keep: Keep | int | float = 0.1
    only: tuple[str, ...] | None = None
    exchange: int | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(
                f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}."
            )
        if isinstance(self.means, Mapping):
            object.__setattr__(self, "means", StoredMeans(**self.means))
        fitted = isinstance(self.means, (TokenMeans, StoredMeans))
        if (self.method == "token_mean") != fitted or (self.means is not None and not fitted):
            raise ValueError(
                "means must be a TokenMeans for method='token_mean' and None for the others, got "
                f"{type(self.means).__name__} for {self.method!r}. Fit it with "
                "tlt.TokenMeans.fit(model, corpus, layers=[...])."
            )
        first = whole(self.from_layer)
        if first is None:
            raise ValueError(f"from_layer must be a block's number, got {self.from_layer!r}.")
        object.__setattr__(self, "from_layer", first)
        object.__setattr__(self, "keep", as_keep(self.keep))
        if self.only is not None:
            object.__setattr__(self, "only", tuple(self.only))
            unknown = set(self.only) - set(GLOBAL_TERMS[self.method])
            if unknown or not self.only:
                raise ValueError(
                    f"only must be of {', '.join(GLOBAL_TERMS[self.method])} for {self.method!r}, got "
                    f"{', '.join(sorted(unknown)) or 'nothing'}."
                )

    def ready(self) -> "Split":
        """The same with its means at hand."""
        stored = isinstance(self.means, StoredMeans)
        return replace(self, means=self.means.read()) if stored else self  # type: ignore[union-attr]

    def on(self, model: Any, layers: Sequence[int] | None) -> tuple["Split", list[int]]:
        """The same with its means at hand, and the layers that it divides: by default all, or those that
        the means are of.

        Raises:
            ValueError: if something does not fit the model.
        """
        ready = self.ready()
        if layers is None and isinstance(ready.means, TokenMeans):
            layers = ready.means.layers
        chosen = [site.layer for site in find_sites(model, "W_out", layers)]
        ready.check(model, chosen)
        return ready, chosen

    def check(self, model: Any, layers: Sequence[int]) -> None:
        """Refuses what does not fit a model, before any pass."""
        for layer in layers:
            site = locate(model, Site(layer, "W_out")).site
            if isinstance(self.means, TokenMeans):
                self.means.require_of(model, site)
                warn_of_another_weight(model, site, self.means.record)
        if not 0 <= self.from_layer < len(model.blocks):
            raise ValueError(
                f"from_layer must be a block in 0..{len(model.blocks) - 1}, got {self.from_layer}."
            )

    def terms(
        self, model: Any, tokens: Int64[Tensor, "batch pos"], outputs: Mapping[int, Tensor]
    ) -> dict[int, Terms]:
        """The terms of each MLP's output, which sum to it.

        Args:
            model: a HookedTransformer or TransformerBridge.
            tokens: without padding in front.
            outputs: of the MLPs by layer, `[batch, pos, d_model]`.
        """
        layers = list(outputs)
        precise = {layer: in_compute_precision(value) for layer, value in outputs.items()}
        if self.method == "own_path":
            streams = own_path(model, tokens, layers)
            return {
                layer: dict(own=each.own, bias=each.bias, sources=each.others)
                for layer, each in streams.items()
            }
        if self.method == "context_ablation":
            ablated = ablated_outputs(model, tokens, layers, from_layer=self.from_layer)
            return {layer: _rest(precise[layer], dict(ablated=ablated[layer])) for layer in layers}
        if self.method == "spectral":
            return {layer: self._spectral(model, layer, precise[layer]) for layer in layers}
        return {layer: _rest(precise[layer], self.token_terms(layer, tokens)) for layer in layers}

    def token_terms(self, layer: int, tokens: Int64[Tensor, "batch pos"]) -> Terms:
        """The terms of the global part by token means."""
        assert isinstance(self.means, TokenMeans)
        site = Site(layer, "W_out")
        if self.exchange is not None:
            tokens = self.means.exchanged(site, tokens, seed=self.exchange)
        return self.means.terms(site, tokens)

    def _spectral(self, model: Any, layer: int, output: Tensor) -> Terms:
        site = Site(layer, "W_out")
        spec, bias = shared_spectrum(model, site), locate(model, site).bias()
        assert isinstance(self.keep, Keep)
        basis = spec.columns(kept_components(spec, self.keep, site)).to(output.device, output.dtype)
        offset = torch.zeros_like(output) if bias is None else bias.to(output).expand_as(output)
        written = output - offset
        kept = written @ basis @ basis.T
        return dict(kept=kept, removed=written - kept, bias=offset)

    def to_json(self) -> dict[str, Any]:
        """The settings as plain data, with the means' hash and file in their place."""
        assert isinstance(self.keep, Keep)
        means = self.means
        if isinstance(means, TokenMeans):
            means = StoredMeans(means.hash, means.record.get("path"))
        return dict(
            method=self.method,
            means=None if means is None else asdict(means),
            from_layer=self.from_layer,
            keep=self.keep.to_json(),
            only=None if self.only is None else list(self.only),
            exchange=self.exchange,
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Split":
        """Reads what `to_json` wrote."""
        return cls(**{**data, "keep": Keep.from_json(data["keep"])})

    def __repr__(self) -> str:
        shown = repr(self.method)
        if self.method == "context_ablation" and self.from_layer:
            shown += f", from_layer={self.from_layer}"
        if self.method == "spectral":
            shown += f", keep={self.keep!r}"
        shown += "" if self.only is None else f", only={self.only!r}"
        return shown + ("" if self.exchange is None else f", exchange={self.exchange}")


def _rest(output: Tensor, terms: Terms) -> Terms:
    """The terms and what they leave of the output."""
    found = {name: term.to(output.device, output.dtype) for name, term in terms.items()}
    found["in_context"] = output - sum(found.values(), start=torch.zeros_like(output))
    return found


def global_of(split: Split, terms: Terms) -> Tensor:
    """The sum of the terms that count as global."""
    names = GLOBAL_TERMS[split.method] if split.only is None else split.only
    chosen = [terms[name] for name in names if name in terms]
    return torch.stack(chosen).sum(0) if len(chosen) > 1 else chosen[0]
