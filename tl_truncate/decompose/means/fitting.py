"""Fitting token means in one pass over a corpus."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tl_truncate.checks import real
from tl_truncate.corpora.corpus import Corpus, Filled, rows_hash
from tl_truncate.decompose.fits.streaming import Reading, Stream
from tl_truncate.decompose.means.file import FIT, HELD_OUT, Sums, read_sums, write_sums
from tl_truncate.decompose.means.sums import SiteSums, usable
from tl_truncate.decompose.passes import outputs_of
from tl_truncate.runs.manifests import HOOKS, TOKENS, make_manifest
from tl_truncate.runs.shards import Shard
from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.weights.identity.hooks import hooks_at
from tl_truncate.weights.linear import compute_dtype
from tl_truncate.weights.locate import find_sites, locate
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.spectrum import shared_spectrum


@dataclass(frozen=True, kw_only=True)
class FitOptions(Reading):
    """How means are fitted; `TokenMeans.fit` says what each option means."""

    kappa: float = 2.0
    bigrams: bool = False
    shares: bool = True
    held_out: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
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
    shard: Shard | None = None,
) -> tuple[Sums, dict[str, Any]]:
    """The sums over a corpus, and the record of where they come from; the arguments are those of
    `TokenMeans.fit`.
    """
    stream = MeansStream(model, tuple(sites), options)
    return fitted(stream, corpus, mask=mask, path=path, progress=progress, shard=shard)


def fitted(
    stream: "MeansStream",
    corpus: Corpus,
    *,
    mask: Tensor | None,
    path: str | os.PathLike[str] | None,
    progress: bool,
    shard: Shard | None = None,
) -> tuple[Sums, dict[str, Any]]:
    """A stream's sums once it has read a corpus, and their record.

    Raises:
        ValueError: if the corpus has no row of two tokens.
    """
    record = stream.run(corpus, mask=mask, path=path, progress=progress, shard=shard)
    if shard is None and not any(
        len(own.tokens) for fold in stream.sums.values() for own in fold.values()
    ):
        raise ValueError("The corpus must have at least one row of two tokens, got none.")
    return stream.sums, record


def fit_manifest(
    model: Any,
    corpus: Corpus,
    sites: Sequence[Site],
    options: FitOptions,
    *,
    mask: Tensor | None,
    shard: Shard | None,
) -> dict[str, Any]:
    """What the run folder of a fit is of. The corpus is read once for it, which is little beside the
    passes, so that a folder that has a result is not taken for that of another corpus.
    """
    stream = MeansStream(model, tuple(sites), options)
    count = 1 if shard is None else shard.count
    return make_manifest(
        "token_means",
        **stream.origin,
        options=stream.settings(),
        batch_size=options.batch_size,
        **{TOKENS: rows_hash(stream.rows(corpus, mask)), HOOKS: hooks_at(model)},
        shares=[str(Shard(count, index)) for index in range(1, count + 1)],
    )


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


class MeansStream(Stream):
    """Sums by token, of the rows that are fitted on and of those that are held out."""

    told, kind = "token means", "TokenMeans"

    def __init__(self, model: Any, sites: tuple[Site, ...], options: FitOptions) -> None:
        super().__init__(model, sites, options)

    def begin(self, sites: tuple[Site, ...], options: Reading, origin: dict[str, Any]) -> None:
        """With no sums."""
        super().begin(sites, options, origin)
        assert isinstance(options, FitOptions)
        self.options: FitOptions = options
        self._shares, self._held_out, self._kappa = options.shares, options.held_out, options.kappa
        self._bases: dict[Site, tuple[Tensor, Tensor]] = {}
        self.sums = self.empty()

    def empty(self) -> Sums:
        """No sums yet."""
        linears = {site: locate(self.model, site) for site in self.sites}
        shares, bigrams = self.options.shares, self.options.bigrams
        return {
            fold: {
                site: SiteSums.empty(linear.shape[1], min(linear.shape) if shares else None, bigrams)
                for site, linear in linears.items()
            }
            for fold in (FIT, HELD_OUT)
        }

    def read(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """The sums of a file, and its record."""
        _, self.sums, record = read_sums(path)
        return record

    def write(self, path: str | os.PathLike[str], record: dict[str, Any]) -> None:
        """Writes the sums."""
        write_sums(path, self._kappa, self.sums, record)

    def see(self, batch: Filled) -> dict[Site, Tensor]:
        """What the sites write."""
        return outputs_of(self.model, batch.tokens, self.sites)

    def add(self, batch: Filled, seen: dict[Site, Tensor]) -> None:
        """By token, each row to its fold."""
        held = torch.tensor([self._is_held_out(row.passage) for row in batch.rows])
        for site, value in seen.items():
            output = in_compute_precision(value)
            used = usable(batch.real, output)
            coefficients = self._coefficients(site, output) if self._shares else None
            for fold, which in ((FIT, ~held), (HELD_OUT, held)):
                if bool(which.any()):
                    self.sums[fold][site].add(batch.tokens, used & which[:, None], output, coefficients)

    def _coefficients(self, site: Site, output: Tensor) -> Tensor:
        if site not in self._bases:
            bias = locate(self.model, site).bias()
            vectors = shared_spectrum(self.model, site).directions
            vectors = vectors.to(output.device, compute_dtype(output.dtype))
            offset = torch.zeros(vectors.shape[0]) if bias is None else bias
            self._bases[site] = (vectors, offset.to(output.device, output.dtype))
        vectors, offset = self._bases[site]
        return (output - offset) @ vectors

    def _is_held_out(self, passage: int) -> bool:
        return int((passage + 1) * self._held_out) > int(passage * self._held_out)
