"""Fitting token means in one pass over a corpus, which can be stopped and gone on with."""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from tl_truncate.checks import as_integers, real
from tl_truncate.corpora.corpus import Corpus, Filled, Row, batches, read_rows, row_length, size_of
from tl_truncate.decompose.means.file import Sums, read_sums, write_sums
from tl_truncate.decompose.means.origin import origin_of
from tl_truncate.decompose.means.sums import SiteSums, usable
from tl_truncate.decompose.passes import outputs_of
from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.weights.files import as_path
from tl_truncate.weights.linear import compute_dtype
from tl_truncate.weights.locate import find_sites, locate
from tl_truncate.weights.provenance import versions
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.spectrum import shared_spectrum

# So many batches are read ahead, and their rows put in the order of their lengths.
_WINDOW = 16
_SECONDS_BETWEEN_SAVES = 60.0
#: What two fits must have in common, of what is known of the weights, for their sums to be added.
OF_THE_WEIGHTS = ("model", "model_class", "dtype", "weights", "weights_hash")


@dataclass(frozen=True)
class FitOptions:
    """How means are fitted; `TokenMeans.fit` says what each option means."""

    kappa: float = 2.0
    bigrams: bool = False
    shares: bool = True
    held_out: float = 0.1
    max_tokens: int | None = None
    prepend_bos: bool | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        as_integers(self, "batch_size")
        for name, most, told in (
            ("kappa", math.inf, "a number of positions from 0 up"),
            ("held_out", 0.5, "a share from 0 to 0.5"),
        ):
            value = real(getattr(self, name))
            if value is None or not 0 <= value <= most:
                raise ValueError(f"{name} must be {told}, got {getattr(self, name)!r}.")
            object.__setattr__(self, name, value)


def fit_sums(
    model: Any,
    corpus: Corpus,
    sites: Sequence[Site],
    options: FitOptions,
    *,
    mask: Tensor | None,
    path: str | os.PathLike[str] | None,
    progress: bool,
) -> tuple[Sums, dict[str, Any]]:
    """The sums over a corpus, and the record of where they come from; the arguments are those of
    `TokenMeans.fit`.
    """
    state = _State(model, tuple(sites), options)
    if path is not None and as_path(path).exists():
        state.read(path)
    rows = read_rows(
        model, corpus, mask=mask, max_tokens=options.max_tokens, prepend_bos=options.prepend_bos
    )
    state.skip(rows)
    bar = tqdm(desc="token means", unit="row", disable=not progress, initial=state.rows)
    bar.total = size_of(corpus)
    with bar:
        state.run(rows, path, bar.update)
    if not state.rows or not any(
        len(own.tokens) for fold in state.sums.values() for own in fold.values()
    ):
        raise ValueError("The corpus must have at least one row of two tokens, got none.")
    return state.sums, state.record(complete=True)


def chosen_sites(
    model: Any, layers: Sequence[int] | None, sites: Sequence[Site | str] | None
) -> tuple[Site, ...]:
    """The sites whose outputs are averaged: some layers' W_out, and others by name.

    Raises:
        ValueError: if the model lacks one.
    """
    found = [] if sites is None else [Site.parse(site) for site in sites]
    if layers is not None or sites is None:
        found += find_sites(model, "W_out", layers)
    for site in found:
        locate(model, site)
    return tuple(sorted(set(found)))


@dataclass
class _State:
    """A fit at work: the sums so far, and what they are of.

    `rows` of the corpus have been read and run, and of the window behind them `batches`.
    """

    model: Any
    sites: tuple[Site, ...]
    options: FitOptions
    rows: int = 0
    batches: int = 0
    sums: Sums = field(default_factory=dict)
    _digest: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=8))
    _passages: int = 0
    _consistent: bool = True
    _expected: str | None = None
    _bases: dict[Site, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _origin: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._origin = origin_of(self.model, self.sites)
        linears = {site: locate(self.model, site) for site in self.sites}
        for fold in ("fit", "held_out"):
            self.sums[fold] = {
                site: SiteSums.empty(
                    linear.shape[1],
                    min(linear.shape) if self.options.shares else None,
                    self.options.bigrams,
                )
                for site, linear in linears.items()
            }

    def read(self, path: str | os.PathLike[str]) -> None:
        """Goes on with a file."""
        _, self.sums, before = read_sums(path)
        wanted = {"options": self._settings(), **{name: self._origin[name] for name in OF_THE_WEIGHTS}}
        for name, value in wanted.items():
            if before.get(name) != value:
                raise ValueError(
                    f"The fit in {path} must be of the same {name} to be gone on with, got "
                    f"{before.get(name)} there and {value} now. Use another file."
                )
        (corpus,) = before["corpora"]
        size = self.options.batch_size
        if corpus["batch_size"] != size and not corpus["complete"]:
            raise ValueError(
                f"batch_size must be {corpus['batch_size']} to go on with {path}, got {size}."
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
            while window := list(islice(rows, self.options.batch_size * _WINDOW)):
                self._window(window, update)
                if path is not None and time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                    self._save(path)
                    saved = time.monotonic()
        finally:
            if path is not None and self._consistent and (self.rows or self.batches):
                self._save(path)

    def _window(self, window: list[Row], update: Callable[[int], Any]) -> None:
        for batch in islice(batches(window, self.options.batch_size), self.batches, None):
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
            coefficients = self._coefficients(site, output) if self.options.shares else None
            for fold, which in (("fit", ~held), ("held_out", held)):
                if bool(which.any()):
                    self.sums[fold][site].add(batch.tokens, used & which[:, None], output, coefficients)

    def _coefficients(self, site: Site, output: Tensor) -> Tensor:
        if site not in self._bases:
            bias = locate(self.model, site).bias()
            vectors = shared_spectrum(self.model, site).V.to(output.device, compute_dtype(output.dtype))
            offset = torch.zeros(vectors.shape[0]) if bias is None else bias
            self._bases[site] = (vectors, offset.to(output.device, output.dtype))
        vectors, offset = self._bases[site]
        return (output - offset) @ vectors

    def _is_held_out(self, passage: int) -> bool:
        share = self.options.held_out
        return int((passage + 1) * share) > int(passage * share)

    def _save(self, path: str | os.PathLike[str]) -> None:
        write_sums(path, self.options.kappa, self.sums, self.record(complete=False))

    def _settings(self) -> dict[str, Any]:
        """What a fit has to have in common with another one to go on with it, as plain data."""
        settings = asdict(self.options)
        del settings["batch_size"]
        return dict(
            settings,
            kappa=float(self.options.kappa),
            held_out=float(self.options.held_out),
            max_tokens=row_length(self.model, self.options.max_tokens),
            sites=[str(site) for site in self.sites],
            cuts=[cut.to_json() for cut in active_cuts(self.model)],
        )

    def record(self, *, complete: bool) -> dict[str, Any]:
        """Where the sums come from."""
        corpus = dict(
            rows=self.rows,
            passages=self._passages,
            batches=self.batches,
            batch_size=self.options.batch_size,
            hash=self._digest.hexdigest(),
            complete=complete,
        )
        return dict(**self._origin, options=self._settings(), versions=versions(), corpora=[corpus])
