"""What cuts do to running text: no gain is shown without its cost."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from tl_truncate.checks import natural, positive
from tl_truncate.corpora.corpus import Row, batches, rows_hash
from tl_truncate.drawing import Drawn
from tl_truncate.experiments.scoring.evaluate import check_model
from tl_truncate.experiments.scoring.running_text import encode_passages, passages_that_fit, text_effects
from tl_truncate.experiments.scoring.view import ShownCost, cost_table
from tl_truncate.markup import interval
from tl_truncate.runs.codec import plain
from tl_truncate.runs.manifests import HOOKS, TOKENS, make_manifest
from tl_truncate.runs.record import Record, make_text_record
from tl_truncate.runs.saved import Saved, required_result
from tl_truncate.runs.sharded.kinds import RunKind
from tl_truncate.runs.sharded.results import ResultKind, kept, said
from tl_truncate.runs.shards import as_shard, require_folder, share
from tl_truncate.statistics import Estimate, estimate_ratio, estimate_share
from tl_truncate.statistics.columns import ANYWHERE, Bounds
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.tasks.encode import bos_token
from tl_truncate.weights.identity.hooks import hooks_at

_COLUMNS = ["text", "tokens", "loss", "uncut_loss", "kl", "agreement"]


@dataclass(frozen=True, repr=False)
class SideEffects(Drawn, Saved):
    """The cut model against the uncut one on running text.

    Attributes:
        frame: one row per passage: text, tokens (predicted), loss and uncut_loss (mean nats a token), kl
            (mean of `KL(uncut || cut)`, nats) and agreement (share of equal most probable tokens).
        record: what it came from.
        resamples: has no effect; of versions whose intervals were drawn.
    """

    frame: pd.DataFrame
    record: Record
    resamples: int = 2000

    @property
    def perplexity(self) -> Estimate:
        """`exp` of the cut model's mean loss, weighted by tokens; its interval is over passages."""
        return _exp(self._estimate(self.frame["loss"]))

    @property
    def uncut_perplexity(self) -> Estimate:
        """`exp` of the uncut model's mean loss."""
        return _exp(self._estimate(self.frame["uncut_loss"]))

    @property
    def loss_change(self) -> Estimate:
        """Cut minus uncut loss, nats a token, paired by passage."""
        return self._estimate(self.frame["loss"] - self.frame["uncut_loss"])

    @property
    def kl(self) -> Estimate:
        """Mean `KL(uncut || cut)` of the next token, in nats."""
        return self._estimate(self.frame["kl"], (0.0, np.inf))

    @property
    def agreement(self) -> Estimate:
        """Share of positions at which both models have the same most probable token.

        If they agree throughout, the interval is that of the passages that do.
        """
        if (self.frame["agreement"] == 1).all():
            return estimate_share(self.frame["agreement"])
        return self._estimate(self.frame["agreement"], (0.0, 1.0))

    @property
    def estimates(self) -> dict[str, Estimate]:
        """What the cuts change, by name."""
        return dict(loss_change=self.loss_change, kl=self.kl, agreement=self.agreement)

    @property
    def shown(self) -> ShownCost:
        """The effects as plain data, for pages."""
        return ShownCost(self.perplexity, self.uncut_perplexity, self.estimates, self.frame)

    def _repr_html_(self) -> str:
        return cost_table(self.shown)

    def _estimate(self, values: pd.Series, within: Bounds = ANYWHERE) -> Estimate:
        weights = self.frame["tokens"].to_numpy(float)
        return estimate_ratio(values.to_numpy() * weights, weights, within=within)

    def to_json(self) -> dict[str, Any]:
        """Summary and record as plain data."""
        told = {"perplexity": self.perplexity, "uncut_perplexity": self.uncut_perplexity}
        summary: dict[str, Any] = {name: float(value) for name, value in told.items()}
        summary |= dict(
            tokens=int(self.frame["tokens"].sum()),
            passages=len(self.frame),
        )
        for name, value in told.items():
            summary |= {f"{name}_low": _end(value.low), f"{name}_high": _end(value.high)}
        for name, value in self.estimates.items():
            summary[name] = dict(value=float(value), low=_end(value.low), high=_end(value.high))
        return {
            "record": self.record.to_json(),
            "summary": summary,
            "resamples": self.resamples,
        }

    def __str__(self) -> str:
        return (
            f"running text, {int(self.frame['tokens'].sum())} tokens of {len(self.frame)} passages: "
            f"perplexity {interval(self.uncut_perplexity, 2)} -> {interval(self.perplexity, 2)}, loss "
            f"{self.loss_change} nats, KL {self.kl}, same first token {self.agreement}"
        )

    def __repr__(self) -> str:
        return str(self)


def _end(value: float) -> float | None:
    """The end of an interval as JSON has it: null where there is none."""
    return None if np.isnan(value) else value


def _exp(value: Estimate) -> Estimate:
    """The exponential of an estimate and of the ends of its interval."""
    low, high = np.exp((value.low, value.high))
    whole = float(np.exp(value))
    return Estimate(whole, low=low, high=high, se=whole * value.se, n=value.n)


def side_effects(
    model: Any,
    cuts: SiteCut | Sequence[SiteCut],
    texts: Sequence[str] | None = None,
    *,
    prepend_bos: bool | None = None,
    max_tokens: int = 256,
    batch_size: int = 1,
    max_memory: int | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    shard: tuple[int, int] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> SideEffects:
    """Perplexity, divergence from the uncut model and agreement with it, on running text.

    `KL(uncut || cut) = sum_v p(v) (log p(v) - log q(v))` at each position, p the uncut model's.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode, with a tokenizer.
        cuts: made together.
        texts: passages; those that ship with the package by default. Each is read on its own.
        prepend_bos: overrides the model's default.
        max_tokens: of a passage; the rest is left out. At most the model's context.
        batch_size: passages in a pass; shorter ones are filled up behind their ends, where no causal
            model looks.
        max_memory: most bytes beside the model, by an estimate; fewer passages share a pass then.
        run_dir: a folder that the result is kept in, and read from if it is there.
        shard: `(3, 8)` is the third of eight shares of the passages, of about as many tokens; `merge`
            joins them. The result is of this shard's passages.
        resamples: has no effect; of versions whose intervals were drawn.
        seed: for the record; nothing is drawn.
        progress: shows a bar.

    Returns:
        The effects, with intervals over passages.

    Raises:
        ValueError: if there is no text of two tokens, the memory does not suffice, a cut addresses
            nothing, or logits are not finite; or if the folder, or a shard in it, is of another run.
        TypeError: if texts is one text, or something is not a cut.
        BlockingIOError: if another process works in the folder, or on the same shard.

    Examples:
        >>> effects = tlt.side_effects(model, tlt.Cut("blocks.1.mlp.W_out", 1.0), ["the store in Paris"])
        >>> float(effects.kl), float(effects.agreement)
        (0.0, 1.0)
    """
    check_model(model)
    resamples, seed = positive("resamples", resamples), natural("seed", seed)
    chosen, part = Cuts(cuts), as_shard(shard)
    require_folder(part, run_dir)
    passages = encode_passages(model, texts, prepend_bos, max_tokens)
    rows = [Row(place, tokens) for place, (_, tokens) in enumerate(passages)]
    sites = [cut.site for cut in chosen]
    fits = passages_that_fit(model, passages, sites, batch_size=batch_size, max_memory=max_memory)
    own = list(batches(rows, fits))
    if part is not None:
        own = [own[place] for place in share([float(each.tokens.numel()) for each in own], part)]
    places = sorted(row.passage for batch in own for row in batch.rows)
    bos = bos_token(model, model.tokenizer, prepend_bos) is not None
    record = make_text_record(
        model,
        [text for text, _ in passages],
        cuts=Cuts(active_cuts(model), chosen),
        prepend_bos=bos,
        seed=seed,
    )
    facts = {TOKENS: rows_hash(rows), HOOKS: hooks_at(model), "max_tokens": max_tokens, "rows": fits}
    manifest = make_manifest(SIDE_EFFECTS.run.name, **plain(record) | facts)

    def work(folder: Path | None) -> SideEffects:
        found: dict[int, dict[str, Any]] = {}
        with tqdm(total=len(places), desc="side effects", disable=not progress) as bar:
            for batch in own:
                found |= text_effects(model, chosen, batch, [text for text, _ in passages])
                bar.update(len(batch.rows))
        frame = pd.DataFrame([found[place] for place in places], columns=_COLUMNS)
        return SideEffects(frame, record, resamples)

    return kept(SIDE_EFFECTS, run_dir, part, manifest, list(map(str, places)), work)


def _joined(manifest: Mapping[str, Any], parts: Sequence[tuple[list[str], SideEffects]]) -> SideEffects:
    """One result of those of some passages each, in the order of the passages."""
    tables = [part.frame.set_axis(list(map(int, names))) for names, part in parts]
    whole = pd.concat([each for each in tables if len(each)]).sort_index().reset_index(drop=True)
    return SideEffects(whole, parts[0][1].record, parts[0][1].resamples)


#: What is kept of `side_effects` in a run folder.
SIDE_EFFECTS: ResultKind[SideEffects] = ResultKind(
    RunKind(
        "side_effects",
        wanted=lambda manifest: list(map(str, range(manifest["n_prompts"]))),
        told=said,
        free=("model",),
        noted=("device", "rows"),
        alike=("rows",),
    ),
    save=SideEffects.save_into,
    load=lambda folder: SideEffects.load(required_result(folder)),
    join=_joined,
)
