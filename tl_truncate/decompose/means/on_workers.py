"""Token means that several workers sum up: each sees batches, and the driver adds in their order.

Rows, batches and the order of additions are those of one process, and so is every bit of the sums.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any

from torch import Tensor

from tl_truncate.corpora.corpus import Corpus, Filled, Row, fill, passages_of, read_rows
from tl_truncate.decompose.means.file import FIT, HELD_OUT, Sums, sums_of, tensors_of
from tl_truncate.decompose.means.fitting import FitOptions, MeansStream, chosen_sites, fitted
from tl_truncate.decompose.means.sums import SiteSums
from tl_truncate.runs.workers.pool import Pool, Shared, pool
from tl_truncate.weights.site import Site

# Passages that a worker makes rows of at a time, and so many times for each worker at once.
_PASSAGES, _AHEAD = 64, 2
_ROWS, _BATCH = "rows", "batch"


@dataclass(frozen=True)
class MeansAsked:
    """What is to be averaged; `TokenMeans.fit` says what it means."""

    layers: tuple[int, ...] | None
    sites: tuple[Site, ...] | None
    options: FitOptions


class MeansPart:
    """A worker's part in a fit.

    Args:
        asked: the fit.
        model: the worker's own.
    """

    def __init__(self, asked: MeansAsked, model: Any) -> None:
        self._asked, self._model = asked, model
        sites = chosen_sites(model, asked.layers, asked.sites)
        self._stream = MeansStream(model, sites, asked.options)

    def told(self) -> dict[str, Any]:
        """What the sums are of, and how wide they are."""
        sums = self._stream.empty()[FIT]
        shapes = {
            str(site): [own.tokens.width, None if own.squares is None else own.squares.width]
            for site, own in sums.items()
        }
        return dict(origin=self._stream.origin, settings=self._stream.settings(), shapes=shapes)

    def do(self, task: tuple[str, Any]) -> Any:
        """The rows of some passages, or the sums of some rows."""
        kind, asked = task
        if kind == _ROWS:
            first, passages = asked
            options = self._asked.options
            reading: dict[str, Any] = dict(
                max_tokens=options.max_tokens, prepend_bos=options.prepend_bos
            )
            rows = read_rows(self._model, passages, first=first, **reading)
            return [(row.passage, row.tokens) for row in rows]
        batch = fill([Row(*row) for row in asked])
        self._stream.sums = self._stream.empty()
        self._stream.add(batch, self._stream.see(batch))
        return tensors_of(self._stream.sums)


class SharedStream(MeansStream):
    """The driver's side: it has no model, and adds what workers have seen.

    Args:
        workers: that have the model.
        job: the fit.
        options: of the fit.
    """

    def __init__(self, workers: Pool, job: Shared, options: FitOptions) -> None:
        told = workers.told(job)
        self._workers, self._job, self._told = workers, job, told["settings"]
        self._shapes = {Site.parse(site): shape for site, shape in told["shapes"].items()}
        self.begin(tuple(self._shapes), options, told["origin"])

    def empty(self) -> Sums:
        """No sums yet."""
        bigrams = self.options.bigrams
        return {
            fold: {
                site: SiteSums.empty(width, rank, bigrams)
                for site, (width, rank) in self._shapes.items()
            }
            for fold in (FIT, HELD_OUT)
        }

    def settings(self) -> dict[str, Any]:
        """As a worker has them."""
        return dict(self._told)

    def rows(self, corpus: Corpus, mask: Tensor | None) -> Iterator[Row]:
        """Read by workers, some passages each, in the order of the corpus."""
        passages = iter(passages_of(corpus, mask))
        firsts = count(0, _PASSAGES)
        chunks = iter(lambda: list(islice(passages, _PASSAGES)), [])
        tasks = ((_ROWS, (first, chunk)) for first, chunk in zip(firsts, chunks, strict=False))
        while some := list(islice(tasks, _AHEAD * self._workers.size)):
            for rows in self._in_order(some):
                for passage, tokens in rows:
                    yield Row(passage, tuple(tokens))

    def seen(self, some: Iterable[tuple[int, Filled]]) -> Iterator[tuple[Filled, Any]]:
        """Batches with their sums, in order."""
        own = [batch for _, batch in some]
        tasks = [(_BATCH, [(row.passage, row.tokens) for row in batch.rows]) for batch in own]
        yield from zip(own, self._in_order(tasks), strict=True)

    def add(self, batch: Filled, seen: Any) -> None:
        """Adds the sums of a batch."""
        for fold, by_site in sums_of(seen).items():
            for site, own in by_site.items():
                self.sums[fold][site].take(own)

    def _in_order(self, tasks: Sequence[tuple[str, Any]]) -> Iterator[Any]:
        """What came of each task, in the order in which they were given."""
        found: dict[int, Any] = {}
        following = 0
        for place, value in self._workers.run(self._job, tasks):
            found[place] = value
            while following in found:
                yield found.pop(following)
                following += 1


def fit_on(
    model: Any,
    on: Any,
    corpus: Corpus,
    asked: MeansAsked,
    *,
    mask: Tensor | None,
    path: str | os.PathLike[str] | None,
    progress: bool,
) -> tuple[Sums, dict[str, Any]]:
    """The sums over a corpus by workers, and the record of where they come from.

    Args:
        model: what each worker loads.
        on: where the workers are.
        corpus: to read.
        asked: what is averaged.
        mask, path, progress: as for `TokenMeans.fit`.
    """
    with pool(on, model, progress=progress) as workers:
        job = workers.share(partial(MeansPart, asked))
        stream = SharedStream(workers, job, asked.options)
        return fitted(stream, corpus, mask=mask, path=path, progress=progress)
