"""One pass over a corpus for sums of any kind, which can be stopped and gone on with."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from tqdm.auto import tqdm

from tl_truncate.checks import as_integers
from tl_truncate.corpora.corpus import (
    Corpus,
    Filled,
    Row,
    batches,
    new_digest,
    read_rows,
    row_length,
    size_of,
)
from tl_truncate.decompose.fits.origin import OF_THE_WEIGHTS, origin_of
from tl_truncate.runs.shards import Shard
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.weights.files import as_path
from tl_truncate.weights.identity.deterministic import require_deterministic
from tl_truncate.weights.identity.provenance import versions
from tl_truncate.weights.site import Site

# So many batches are read ahead, and their rows put in the order of their lengths.
_WINDOW = 16
_SECONDS_BETWEEN_SAVES = 60.0
# In the record of a corpus: of which every n-th batch was run.
_SHARD = "shard"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a corpus is read; options of a kind of fit are a subclass."""

    max_tokens: int | None = None
    prepend_bos: bool | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        as_integers(self, "batch_size")


class Stream(ABC):
    """A fit at work: the sums so far, and what they are of.

    A kind of fit says what a pass shows, how that is summed up, and what the file is like.

    Args:
        model: a HookedTransformer or TransformerBridge.
        sites: that are summed up.
        options: of the fit.
    """

    #: What is fitted, as a bar says it, and the class that users know it by.
    told: str
    kind: str

    def __init__(self, model: Any, sites: tuple[Site, ...], options: Reading) -> None:
        require_deterministic(model)
        self.model = model
        self.begin(sites, options, origin_of(model, sites))

    def begin(self, sites: tuple[Site, ...], options: Reading, origin: dict[str, Any]) -> None:
        """With nothing read.

        Args:
            sites: that are summed up.
            options: of the fit.
            origin: of the sums, as `origin_of` has it.
        """
        self.sites, self.options, self.origin = sites, options, origin
        # So many rows have been read and run, and of the window behind them so many batches.
        self._rows = self._batches = self._passages = 0
        self._digest = new_digest()
        self._consistent = True
        self._expected: str | None = None
        self._shard: Shard | None = None

    @abstractmethod
    def see(self, batch: Filled) -> Any:
        """What a pass of a batch shows; no sum is touched."""

    @abstractmethod
    def add(self, batch: Filled, seen: Any) -> None:
        """Adds what was seen to the sums."""

    def settle(self) -> None:
        """Brings the sums into the form in which they are kept; called now and then."""
        return

    @abstractmethod
    def read(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Takes the sums of a file, and gives its record."""

    @abstractmethod
    def write(self, path: str | os.PathLike[str], record: dict[str, Any]) -> None:
        """Writes the sums with their record."""

    def run(
        self,
        corpus: Corpus,
        *,
        mask: Any,
        path: str | os.PathLike[str] | None,
        progress: bool,
        shard: Shard | None = None,
    ) -> dict[str, Any]:
        """Reads a corpus to its end, behind what a file has of it.

        Of a shard all rows are read, so that its batches are those of one process, and every n-th batch
        is run.

        Returns:
            The record of where the sums come from.

        Raises:
            ValueError: if the file holds another fit.
        """
        self._shard = shard
        if path is not None and as_path(path).exists():
            self._go_on(path)
        rows = self.rows(corpus, mask)
        self._skip(rows)
        bar = tqdm(desc=self.told, unit="row", disable=not progress, initial=self._rows)
        bar.total = size_of(corpus)
        with bar:
            self._read_all(rows, path, bar.update)
        return self._record(complete=True)

    def rows(self, corpus: Corpus, mask: Any) -> Iterator[Row]:
        """The rows of a corpus, in order."""
        options = self.options
        reading: dict[str, Any] = dict(max_tokens=options.max_tokens, prepend_bos=options.prepend_bos)
        return read_rows(self.model, corpus, mask=mask, **reading)

    def seen(self, some: Iterable[tuple[int, Filled]]) -> Iterator[tuple[Filled, Any]]:
        """Batches of a window, in order, with what a pass of each shows; None is another shard's."""
        for place, batch in some:
            yield batch, self.see(batch) if self._is_own(place) else None

    def _go_on(self, path: str | os.PathLike[str]) -> None:
        before = self.read(path)
        wanted = {"options": self.settings(), **{name: self.origin[name] for name in OF_THE_WEIGHTS}}
        for name, value in wanted.items():
            if before.get(name) != value:
                raise ValueError(
                    f"The fit in {path} must be of the same {name} to be gone on with, got "
                    f"{before.get(name)} there and {value} now. Use another file."
                )
        if len(before["corpora"]) != 1:
            raise ValueError(
                f"The fit in {path} must be of one corpus to be gone on with, but it is merged of "
                f"{len(before['corpora'])}. Use another file, and {self.kind}.merge."
            )
        (corpus,) = before["corpora"]
        own = None if self._shard is None else str(self._shard)
        if corpus.get(_SHARD) != own:
            raise ValueError(
                f"The fit in {path} must be of the same share of the corpus to be gone on with, got "
                f"{corpus.get(_SHARD)} there and {own} now. Use another file."
            )
        size = self.options.batch_size
        if corpus["batch_size"] != size and not corpus["complete"]:
            raise ValueError(
                f"batch_size must be {corpus['batch_size']} to go on with {path}, got {size}."
            )
        self._rows, self._batches = corpus["rows"], corpus["batches"]
        self._expected = corpus["hash"]

    def _skip(self, rows: Iterator[Row]) -> None:
        """Passes over the rows that the sums are of already."""
        for row in islice(rows, self._rows):
            self._note(row)
        if self._expected is not None and self._digest.hexdigest() != self._expected:
            raise ValueError(
                f"The corpus must begin with the {self._rows} rows that the file has the sums of, but "
                f"it begins with others. Use another file, or {self.kind}.merge."
            )

    def _read_all(
        self,
        rows: Iterator[Row],
        path: str | os.PathLike[str] | None,
        update: Callable[[int], Any],
    ) -> None:
        saved = time.monotonic()
        try:
            while window := list(islice(rows, self.options.batch_size * _WINDOW)):
                self._window(window, update)
                if path is not None and time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                    self._save(path)
                    saved = time.monotonic()
        finally:
            if path is not None and self._consistent and (self._rows or self._batches):
                self._save(path)

    def _window(self, window: list[Row], update: Callable[[int], Any]) -> None:
        everything = enumerate(batches(window, self.options.batch_size))
        for batch, seen in self.seen(islice(everything, self._batches, None)):
            if seen is not None:
                self._consistent = False
                self.add(batch, seen)
            self._batches += 1
            self._consistent = True
            update(len(batch.rows))
        self._consistent = False
        self.settle()
        for row in window:
            self._note(row)
        self._rows, self._batches = self._rows + len(window), 0
        self._consistent = True

    def _is_own(self, place: int) -> bool:
        """Whether a batch of the window at hand is this shard's. Each window begins with another shard,
        since its batches are in the order of their lengths.
        """
        if self._shard is None:
            return True
        window = self._rows // (self.options.batch_size * _WINDOW)
        return (window + place) % self._shard.count == self._shard.index - 1

    def _note(self, row: Row) -> None:
        self._digest.update(row.told)
        self._passages = row.passage + 1

    def _save(self, path: str | os.PathLike[str]) -> None:
        self.settle()
        self.write(path, self._record(complete=False))

    def settings(self) -> dict[str, Any]:
        """What a fit has to have in common with another one to go on with it, as plain data."""
        settings = asdict(self.options)
        del settings["batch_size"]
        return dict(
            settings,
            max_tokens=row_length(self.model, self.options.max_tokens),
            sites=[str(site) for site in self.sites],
            cuts=[cut.to_json() for cut in active_cuts(self.model)],
        )

    def _record(self, *, complete: bool) -> dict[str, Any]:
        """Where the sums come from."""
        corpus = dict(
            rows=self._rows,
            passages=self._passages,
            batches=self._batches,
            batch_size=self.options.batch_size,
            hash=self._digest.hexdigest(),
            complete=complete,
        )
        if self._shard is not None:
            corpus[_SHARD] = str(self._shard)
        return dict(**self.origin, options=self.settings(), versions=versions(), corpora=[corpus])
