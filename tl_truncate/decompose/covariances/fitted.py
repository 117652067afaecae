"""What covariances that were fitted have in common: their weights, merging, and their file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar, TypeVar

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from tl_truncate.decompose.covariances.file import read_sums, tensors_of, write_sums
from tl_truncate.decompose.fits.origin import (
    is_of_another_weight,
    of_the_weights,
    require_origin,
    require_same,
)
from tl_truncate.decompose.fits.stored import Reference, hash_of
from tl_truncate.weights.files import as_path
from tl_truncate.weights.site import Site

Own = TypeVar("Own", bound="Covariances")


@dataclass(frozen=True, eq=False, repr=False)
class Covariances:
    """Sums of outer products of sites over the positions of a corpus, `sum_t v_t^T v_t`.

    Two are equal if their sums are.

    Attributes:
        sums: by role and site, symmetric, in float64.
        positions: that were summed over.
        record: model, weights, versions, shapes, corpus.
    """

    sums: Mapping[str, Mapping[Site, Tensor]]
    positions: int
    record: Mapping[str, Any]

    #: What they are called in messages, the role whose width is that of the output, and of all roles.
    told: ClassVar[str]
    of_outputs: ClassVar[str]

    @property
    def sites(self) -> tuple[Site, ...]:
        """That have been fitted."""
        return tuple(self.sums[self.of_outputs])

    def shape(self, site: Site | str) -> tuple[int, int]:
        """`(n_in, n_out)` of the site's matrix."""
        n_in, n_out = self.record["shapes"][str(self.require(site))]
        return n_in, n_out

    def require(self, site: Site | str) -> Site:
        """The site, if it has been fitted.

        Raises:
            ValueError: if it has not.
        """
        found = Site.parse(site)
        if found not in self.sites:
            shown = ", ".join(map(str, self.sites[:6])) + (" ..." if len(self.sites) > 6 else "")
            raise ValueError(
                f"The {self.told} must be of {found}, got {self.told} of {shown}. Fit them with "
                f"{type(self).__name__}.fit(model, corpus, sites=['{found}'])."
            )
        return found

    def require_of(self, model: Any, site: Site | str) -> Site:
        """The site, if what was fitted is of the weight that a model has there.

        Raises:
            ValueError: if it is not: the width, the processing or the weight itself is another. In
                another precision the same weight cannot be told from others.
        """
        found = self.require(site)
        width = self.sums[self.of_outputs][found].shape[0]
        require_origin(model, found, width, self.record, told=self.told)
        if is_of_another_weight(model, found, self.record):
            raise ValueError(
                f"The {self.told} must be of the weight that {found} has now, but they were fitted on "
                f"another one (they are of {self.record.get('model')}). Fit them on this model."
            )
        return found

    def mean(self, role: str, site: Site | str) -> Float[Tensor, "width width"]:
        """The sum of a role over the number of positions."""
        return self.sums[role][self.require(site)] / self.positions

    def merge(self: Own, other: Own) -> Own:
        """Those over both corpora, as if they had been read in one go.

        Raises:
            ValueError: if they are not of the same sites of the same weights, fitted alike.
        """
        pairs = [("kind", type(self).__name__, type(other).__name__), ("sites", self.sites, other.sites)]
        told = self.told.capitalize()
        require_same(told, [*pairs, *of_the_weights(self.record, other.record)])
        sums = {
            role: {site: own + other.sums[role][site] for site, own in by_site.items()}
            for role, by_site in self.sums.items()
        }
        corpora = [*self.record["corpora"], *other.record["corpora"]]
        record = {**self.record, "corpora": corpora}
        record.pop("path", None)
        return type(self)(sums, self.positions + other.positions, record)

    @property
    def nbytes(self) -> int:
        """Bytes of the sums."""
        return sum(matrix.nbytes for by_site in self.sums.values() for matrix in by_site.values())

    @cached_property
    def hash(self) -> str:
        """A short hash of all sums."""
        return hash_of(f"{type(self).__name__} {self.positions}", tensors_of(self.sums))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Covariances, Reference)) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def to_json(self) -> dict[str, Any]:
        """Their hash and file, which stand for them in a cut's JSON."""
        return dict(hash=self.hash, path=self.record.get("path"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the sums (safetensors) with their record, under a temporary name first."""
        write_sums(path, type(self).__name__, self.positions, self.sums, self.record)
        # A cut that is made of these from now on knows where they are.
        self.record["path"] = str(path)  # type: ignore[index]

    @classmethod
    def load(cls: type[Own], path: str | os.PathLike[str]) -> Own:
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file holds something else.
        """
        positions, sums, record = read_sums(path, cls.__name__)
        return cls(sums, positions, {**record, "path": str(path)})

    def summary(self) -> pd.DataFrame:
        """One row per site: the shape of its matrix, and the trace of the mean of each role."""
        rows = [
            dict(
                site=str(site),
                shape=" x ".join(map(str, self.shape(site))),
                **{role: float(self.mean(role, site).trace()) for role in self.sums},
            )
            for site in self.sites
        ]
        return pd.DataFrame(rows).set_index("site")

    def __str__(self) -> str:
        table = self.summary().to_string(float_format="%.3g")
        return (
            f"{self.told.capitalize()} of {self.record['model']} ({self.record['weights']} weights), "
            f"{self.positions} positions, {self.nbytes / 1e6:.0f} MB\n{table}"
        )

    def __repr__(self) -> str:
        return str(self)


def as_fitted(kind: type[Own], name: str, value: Any) -> "Own | Reference":
    """An argument of a cut: what was fitted, or what stands for it in JSON.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(value, Mapping):
        return Reference(**value)
    if not isinstance(value, (kind, Reference)):
        raise TypeError(
            f"{name} must be of the kind {kind.__name__}, got {value!r:.60}. Fit it with "
            f"tlt.{kind.__name__}.fit(model, texts, sites=[...])."
        )
    return value


def at_hand(kind: type[Own], value: "Own | Reference") -> Own:
    """What was fitted, read again where a cut was.

    Raises:
        ValueError: if it was never saved, or the file holds another now.
    """
    if not isinstance(value, Reference):
        return value

    own: Any = kind  # a type variable cannot be hashed, says mypy

    def load(path: str | os.PathLike[str]) -> Any:
        return _load(own, str(path), as_path(path).stat().st_mtime_ns)

    found: Own = value.follow(load, kind.told)
    return found


@lru_cache(maxsize=2)
def _load(kind: Any, path: str, written: int) -> Any:
    # The cuts of a sweep refer to one file, which may be large.
    return kind.load(path)
