"""Fitting token means in one pass over a corpus, which can be stopped and gone on with."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from tl_truncate.checks import positive
from tl_truncate.corpora.corpus import Corpus, Filled, Row, batches, read_rows, row_length, size_of
from tl_truncate.decompose.means.sums import SiteSums, usable
from tl_truncate.decompose.passes import outputs_of
from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.weights.linear import compute_dtype
from tl_truncate.weights.locate import find_sites, locate
from tl_truncate.weights.provenance import of_model, versions
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectrum import spectrum

if TYPE_CHECKING:
    from tl_truncate.decompose.means.token_means import TokenMeans

# So many batches are read ahead, and their rows put in the order of their lengths.
_WINDOW = 16
_SECONDS_BETWEEN_SAVES = 60.0


def fit(
    model: Any,
    corpus: Corpus,
    *,
    layers: Sequence[int] | None = None,
    sites: Sequence[Site | str] | None = None,
    kappa: float = 2.0,
    bigrams: bool = False,
    shares: bool = True,
    mask: Tensor | None = None,
    held_out: float = 0.1,
    max_tokens: int | None = None,
    prepend_bos: bool | None = None,
    batch_size: int = 16,
    path: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> "TokenMeans":
    """Averages what sites write, by token, in one pass over a corpus.

    Padding, position 0 and attention sinks (outputs longer than 60 times the median of their row) are
    left out. Only tokens that are seen take memory: 8 bytes x seen tokens x sites x width, and as much
    again for `shares`, and for the tokens of the held-out rows.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode.
        corpus: texts, a tensor of tokens `[passage, pos]`, the path of a text file with an empty line
            between passages, or any iterator of texts, token numbers or a dataset's rows.
        layers: whose MLP outputs are averaged (W_out); all by default.
        sites: further sites whose outputs are averaged, such as `blocks.3.mlp.W_in`.
        kappa: positions of the mean that a token's own mean is shrunk towards.
        bigrams: also by the previous token; 8 bytes x seen pairs x sites x width more.
        shares: also the second moments that `component_shares` needs.
        mask: for a tensor, False or 0 at padding.
        held_out: share of the passages that is kept apart for R^2; G uses them too.
        max_tokens: of a row; longer passages go on in further rows.
        prepend_bos: for texts; overrides the model's default.
        batch_size: rows in a pass.
        path: a file for the sums, written now and then, at the end, and when interrupted. Given again
            with the same corpus, the fit goes on behind the rows that it has.
        progress: shows a bar.

    Returns:
        The means.

    Raises:
        ValueError: if an argument does not fit, the corpus has no row of two tokens, or the file holds
            another fit.
        TypeError: if the corpus is of no known kind.

    Examples:
        >>> means = tlt.TokenMeans.fit(model, tokens, layers=[1])
        >>> means.of_tokens("blocks.1.mlp.W_out", tokens).shape
        torch.Size([2, 7, 32])
    """
    chosen = _sites(model, layers, sites)
    positive("batch_size", batch_size)
    _check_numbers(kappa, held_out)
    options = dict(
        kappa=float(kappa),
        bigrams=bigrams,
        shares=shares,
        held_out=float(held_out),
        max_tokens=row_length(model, max_tokens),
        prepend_bos=prepend_bos,
        sites=[str(site) for site in chosen],
        cuts=[cut.to_json() for cut in active_cuts(model)],
    )
    state = _State(model, chosen, options, batch_size)
    if path is not None and Path(path).exists():
        state.read(path)
    rows = read_rows(model, corpus, mask=mask, max_tokens=max_tokens, prepend_bos=prepend_bos)
    state.skip(rows)
    bar = tqdm(desc="token means", unit="row", disable=not progress, initial=state.rows)
    bar.total = size_of(corpus)
    with bar:
        state.run(rows, path, bar.update)
    if not state.rows or not any(
        len(own.tokens) for fold in state.sums.values() for own in fold.values()
    ):
        raise ValueError("The corpus must have at least one row of two tokens, got none.")
    means = state.means(complete=True)
    if path is not None:
        means.save(path)
    return means


def _sites(
    model: Any, layers: Sequence[int] | None, sites: Sequence[Site | str] | None
) -> tuple[Site, ...]:
    found = [] if sites is None else [Site.parse(site) for site in sites]
    if layers is not None or sites is None:
        found += find_sites(model, "W_out", layers)
    for site in found:
        locate(model, site)
    return tuple(sorted(set(found)))


def _check_numbers(kappa: Any, held_out: Any) -> None:
    if isinstance(kappa, bool) or not isinstance(kappa, (int, float)) or not kappa >= 0:
        raise ValueError(f"kappa must be a number of positions from 0 up, got {kappa!r}.")
    if isinstance(held_out, bool) or not isinstance(held_out, (int, float)) or not 0 <= held_out <= 0.5:
        raise ValueError(f"held_out must be a share from 0 to 0.5, got {held_out!r}.")


@dataclass
class _State:
    """A fit at work: the sums so far, and what they are of.

    `rows` of the corpus have been read and run, and of the window behind them `batches`.
    """

    model: Any
    sites: tuple[Site, ...]
    options: dict[str, Any]
    batch_size: int
    rows: int = 0
    batches: int = 0
    sums: dict[str, dict[Site, SiteSums]] = field(default_factory=dict)
    _digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=8))
    _passages: int = 0
    _consistent: bool = True
    _expected: str | None = None
    _bases: dict[Site, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        linears = {site: locate(self.model, site) for site in self.sites}
        for fold in ("fit", "held_out"):
            self.sums[fold] = {
                site: SiteSums.empty(
                    linear.shape[1],
                    min(linear.shape) if self.options["shares"] else None,
                    self.options["bigrams"],
                )
                for site, linear in linears.items()
            }

    def read(self, path: str | os.PathLike[str]) -> None:
        """Goes on with a file."""
        from tl_truncate.decompose.means.token_means import TokenMeans

        before = TokenMeans.load(path)
        wanted: dict[str, Any] = dict(options=self.options, model=of_model(self.model)["model"])
        for name, value in wanted.items():
            if before.record[name] != value:
                raise ValueError(
                    f"The fit in {path} must be of the same {name} to be gone on with, got "
                    f"{before.record[name]} there and {value} now. Use another file."
                )
        self.sums = {fold: dict(own) for fold, own in before.sums.items()}
        (corpus,) = before.record["corpora"]
        if corpus["batch_size"] != self.batch_size and not corpus["complete"]:
            raise ValueError(
                f"batch_size must be {corpus['batch_size']} to go on with {path}, got {self.batch_size}."
            )
        self.rows, self.batches = corpus["rows"], corpus["batches"]
        self._expected = corpus["hash"]

    def skip(self, rows: Iterator[Row]) -> None:
        """Passes over the rows that the sums are of already."""
        for row in islice(rows, self.rows):
            self._note(row)
        if self._expected is not None and self._digest.hexdigest() != self._expected:
            raise ValueError(
                f"The corpus must begin with the {self.rows} rows that the file has the sums of, but it "
                "begins with others. Use another file, or TokenMeans.merge."
            )

    def run(
        self,
        rows: Iterator[Row],
        path: str | os.PathLike[str] | None,
        update: Callable[[int], Any],
    ) -> None:
        """Reads the corpus to its end."""
        saved = time.monotonic()
        try:
            while window := list(islice(rows, self.batch_size * _WINDOW)):
                self._window(window, update)
                if path is not None and time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                    self.means(complete=False).save(path)
                    saved = time.monotonic()
        finally:
            if path is not None and self._consistent and (self.rows or self.batches):
                self.means(complete=False).save(path)

    def _window(self, window: list[Row], update: Callable[[int], Any]) -> None:
        for batch in islice(batches(window, self.batch_size), self.batches, None):
            outputs = outputs_of(self.model, batch.tokens, self.sites)
            self._consistent = False
            self._add(batch, outputs)
            self.batches += 1
            self._consistent = True
            update(len(batch.rows))
        for row in window:
            self._note(row)
        self.rows, self.batches = self.rows + len(window), 0

    def _note(self, row: Row) -> None:
        self._digest.update(f"{row.passage}:{row.tokens}".encode())
        self._passages = row.passage + 1

    def _add(self, batch: Filled, outputs: dict[Site, Tensor]) -> None:
        held = torch.tensor([self._is_held_out(row.passage) for row in batch.rows])
        for site, value in outputs.items():
            output = in_compute_precision(value)
            used = usable(batch.real, output)
            coefficients = self._coefficients(site, output) if self.options["shares"] else None
            for fold, which in (("fit", ~held), ("held_out", held)):
                if bool(which.any()):
                    self.sums[fold][site].add(batch.tokens, used & which[:, None], output, coefficients)

    def _coefficients(self, site: Site, output: Tensor) -> Tensor:
        if site not in self._bases:
            bias = locate(self.model, site).bias()
            vectors = spectrum(self.model, site).V.to(output.device, compute_dtype(output.dtype))
            offset = torch.zeros(vectors.shape[0]) if bias is None else bias
            self._bases[site] = (vectors, offset.to(output.device, output.dtype))
        vectors, offset = self._bases[site]
        return (output - offset) @ vectors

    def _is_held_out(self, passage: int) -> bool:
        share = float(self.options["held_out"])
        return int((passage + 1) * share) > int(passage * share)

    def means(self, *, complete: bool) -> "TokenMeans":
        """The means so far."""
        from tl_truncate.decompose.means.token_means import TokenMeans

        corpus = dict(
            rows=self.rows,
            passages=self._passages,
            batches=self.batches,
            batch_size=self.batch_size,
            hash=self._digest.hexdigest(),
            complete=complete,
        )
        record = {
            **of_model(self.model),
            "options": self.options,
            "versions": versions(),
            "corpora": [corpus],
        }
        return TokenMeans(self.options["kappa"], self.sums, record)
