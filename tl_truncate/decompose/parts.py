"""The result of a decomposition: the parts of one MLP's output, exactly additive."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_truncate.decompose.readout import Readout
from tl_truncate.decompose.view import decomposition_html
from tl_truncate.drawing import Drawn
from tl_truncate.statistics import Estimate, estimate_ratio, shown

Method = Literal["token_mean", "context_ablation", "own_path", "spectral"]
PARTS = ("global", "in_context")

#: What each method's parts mean, for whoever reads a result.
MEANING: dict[Method, str] = {
    "token_mean": "global: what the MLP writes on average at this token; in-context: the rest",
    "context_ablation": "global: what the MLP writes if positions see themselves and position 0 alone. "
    "Masked from layer 0, a deep layer of a real model is far from anything that it was trained on",
    "own_path": "global: from the token's own embedding through its own position, and from biases; "
    "in-context: from other positions, with patterns, norm scales and activation ratios held fixed",
    "spectral": "a split of the weight and not of meaning: in-context is what the kept components "
    "write, global what the removed ones and the bias write",
}


@dataclass(frozen=True, eq=False, repr=False)
class MLPDecomposition(Drawn):
    """One MLP's output in two parts, `mlp_out = global_ + in_context`, to rounding.

    Attributes:
        method: how it was divided.
        layer: of the MLP.
        tokens: `[batch, pos]`, as they were given, padding included.
        valid: `[batch, pos]`, False at padding, at position 0 and at attention sinks, which no statistic
            counts.
        global_: `[batch, pos, d_model]`; zero at padding.
        in_context: `[batch, pos, d_model]`.
        terms: the finer terms by name, which sum to the MLP's output; each is also an attribute.
            `token_mean`: corpus_mean, token, bigram if it was fitted, and in_context. `own_path`: own,
            bias, sources. `spectral`: kept, removed, bias. `context_ablation`: ablated, in_context.
        counts: `[batch, pos]`, how often each token was seen when the means were fitted; None for other
            methods. A mean of few says little: `TokenMeans.flagged`.
        readout: the frozen final norm and the unembedding, for `logits`.
        texts: of the tokens, `[batch][pos]`.
        record: model, weights, versions, settings.
    """

    method: Method
    layer: int
    tokens: Int64[Tensor, "batch pos"]
    valid: Bool[Tensor, "batch pos"]
    global_: Float[Tensor, "batch pos d_model"]
    in_context: Float[Tensor, "batch pos d_model"]
    terms: Mapping[str, Float[Tensor, "batch pos d_model"]]
    counts: Int64[Tensor, "batch pos"] | None
    readout: Readout
    texts: tuple[tuple[str, ...], ...]
    record: Mapping[str, Any]

    def __getattr__(self, name: str) -> Tensor:
        """A finer term by its name."""
        terms = self.__dict__.get("terms", {})
        if name not in terms:
            shown = ", ".join(terms)
            raise AttributeError(f"A term of this decomposition must be one of {shown}, got {name!r}.")
        found: Tensor = terms[name]
        return found

    @property
    def mlp_out(self) -> Float[Tensor, "batch pos d_model"]:
        """The MLP's output, as the sum of the parts."""
        return self.global_ + self.in_context

    def logits(
        self, token_ids: Sequence[int] | None = None, *, centred: bool = True
    ) -> "LogitAttribution":
        """What each part adds to logits through the frozen final norm: direct logit attribution.

        `logits(part) = norm(part) W_U` with the norm's scale as it was in the pass, without its bias.

        Args:
            token_ids: which tokens; all by default.
            centred: subtracts the mean over the vocabulary, which a softmax does not see.

        Returns:
            The attributions, in nats.
        """

        def of(part: Tensor) -> Tensor:
            return self.readout.logits(part, token_ids, centred=centred)

        terms = {name: of(term) for name, term in self.terms.items()}
        ids = None if token_ids is None else tuple(token_ids)
        return LogitAttribution(ids, of(self.global_), of(self.in_context), terms)

    def fractions(self) -> pd.DataFrame:
        """How much of the output's variance each part and term carries, in the stream and in logits.

        `share(part) = sum_t <part_t - mean, o_t - mean> / sum_t |o_t - mean|^2` over valid positions:
        the shares of the terms sum to one, and one is negative where a term works against the others. In
        the logits the product is that of the centred logits under the frozen final norm.

        Returns:
            One row per (term, space): value, se and the 95% interval low, high over rows; of one row,
            over positions.
        """
        named = {"global": self.global_, "in_context": self.in_context, **self.terms}
        spaces = {"variance": lambda part: part.double(), "logits": self._readout_coordinates}
        rows = []
        for space, coordinates in spaces.items():
            whole = self._centred(coordinates(self.mlp_out))
            size = self._by_unit(whole, whole)
            for name, part in named.items():
                products = self._by_unit(self._centred(coordinates(part)), whole)
                value = estimate_ratio(products, size)
                rows.append(_row(name, space, value))
        table = pd.DataFrame(rows).drop_duplicates(["term", "space"])
        return table.set_index(["term", "space"])

    def _readout_coordinates(self, part: Tensor) -> Tensor:
        """Coordinates in which products are those of centred logits."""
        values, vectors = torch.linalg.eigh(self.readout.gram())
        root = vectors * values.clamp_min(0).sqrt()
        found: Tensor = self.readout.norm.linear(part.double()) @ root
        return found

    def _centred(self, values: Tensor) -> Tensor:
        inside = self.valid.to(values.device)
        return torch.where(inside[..., None], values - values[inside].mean(0), 0.0)

    def _by_unit(self, one: Tensor, other: Tensor) -> Any:
        products = (one * other).sum(-1).cpu()
        units = products.sum(1) if len(products) > 1 else products[self.valid.cpu()]
        return units.numpy()

    def to_frame(self) -> pd.DataFrame:
        """One row per valid position: row, position, token, text, norms of output and parts, the share
        of the output's square that each part carries, `<part, o> / |o|^2`, and the token's count.
        """
        whole = self.mlp_out.double()
        rows, positions = self.valid.nonzero(as_tuple=True)
        columns: dict[str, Any] = dict(
            row=rows,
            position=positions,
            token=self.tokens[rows, positions],
            text=[self.texts[row][position] for row, position in zip(rows, positions, strict=True)],
            mlp_out=whole.norm(dim=-1).cpu()[rows, positions],
        )
        for name, part in (("global", self.global_), ("in_context", self.in_context)):
            share = (part * whole).sum(-1) / whole.square().sum(-1)
            columns[name] = part.double().norm(dim=-1).cpu()[rows, positions]
            columns[f"{name}_share"] = share.cpu()[rows, positions]
        if self.counts is not None:
            columns["count"] = self.counts[rows, positions]
        return pd.DataFrame(columns).reset_index(drop=True)

    def __str__(self) -> str:
        shares = self.fractions()
        lines = [
            f"MLP of block {self.layer}, {self.method}, {int(self.valid.sum())} positions of "
            f"{len(self.tokens)} rows on {self.record['model']}",
            f"  ({MEANING[self.method]})",
        ]
        for name in PARTS:
            variance, logits = (
                shown(*shares.loc[(name, space), ["value", "low", "high"]])
                for space in ("variance", "logits")
            )
            lines.append(f"  {name:<11}variance {variance}  logits {logits}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        meaning = MEANING[self.method]
        told = [
            f"The MLP of block {self.layer} on {self.record['model']}, by {self.method}, at "
            f"{int(self.valid.sum())} positions of {len(self.tokens)} rows.",
            f"{meaning[0].upper()}{meaning[1:]}.",
        ]
        shares = self.fractions()
        return decomposition_html(told, shares, self.to_frame(), self.texts)

    def __repr__(self) -> str:
        return str(self)


def _row(term: str, space: str, value: Estimate) -> dict[str, Any]:
    return dict(term=term, space=space, value=float(value), se=value.se, low=value.low, high=value.high)


@dataclass(frozen=True, eq=False)
class LogitAttribution(Drawn):
    """What the parts of an MLP's output add to logits, in nats.

    Attributes:
        token_ids: of the last axis; None for the whole vocabulary.
        global_: `[batch, pos, token]`.
        in_context: `[batch, pos, token]`.
        terms: of the finer terms.
    """

    token_ids: tuple[int, ...] | None
    global_: Float[Tensor, "batch pos token"]
    in_context: Float[Tensor, "batch pos token"]
    terms: Mapping[str, Float[Tensor, "batch pos token"]]

    @property
    def total(self) -> Float[Tensor, "batch pos token"]:
        """What the whole output adds."""
        return self.global_ + self.in_context
