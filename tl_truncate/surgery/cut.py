"""A cut: what is done to one site, as a value that can be compared, printed and stored."""

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch

from tl_truncate.checks import natural, real
from tl_truncate.surgery.circuits import made_at
from tl_truncate.surgery.edit import Edit, Projection, Replacement, smaller_side
from tl_truncate.weights.files import as_path, replacing
from tl_truncate.weights.keep import Keep, LaserCompat, as_keep
from tl_truncate.weights.linear import Linear, compute_dtype
from tl_truncate.weights.locate import carrier
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.spectrum import Directed, SingularValues, shared_spectrum


@dataclass(frozen=True)
class SiteCut(ABC):
    """What every cut and every control has: a site, a strength, and an edit of the site's weight.

    `W -> W - strength * R`: strength 1 removes R, 0 is the identity, -1 doubles R.

    A new kind is a frozen dataclass with `edit`; being a subclass makes it readable from JSON.
    """

    site: Site
    strength: float = field(default=1.0, kw_only=True)

    #: Whether cuts of this class are draws, each of them.
    _always_drawn: ClassVar[bool] = False
    _kinds: ClassVar[dict[str, type["SiteCut"]]] = {}
    #: What draws at random as much as a cut removes, by the kind's name.
    _controls: ClassVar[dict[str, Callable[..., "SiteCut"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__name__.startswith("_"):
            SiteCut._kinds[cls.__name__] = cls

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        for name in ("keep", "strength", "seed"):
            if hasattr(self, name):
                object.__setattr__(self, name, _CHECKS[name](getattr(self, name)))

    @abstractmethod
    def edit(self, model: Any) -> Edit:
        """The edit of the site's weight in a model, from the spectrum of its present content."""

    @property
    def is_drawn(self) -> bool:
        """Whether it draws at random what another cut chooses."""
        return self._always_drawn

    @property
    def kind(self) -> str:
        """What tables call it: its class, and of a control the kind under which a cut gives it."""
        return type(self).__name__

    @property
    def reads_tokens(self) -> bool:
        """Whether the edit depends on the tokens, so that it needs passes from the embedding on."""
        return False

    @property
    def needs_input(self) -> bool:
        """Whether plain hooks need the linear's input beside its output, as a replacement does."""
        return False

    @property
    def label(self) -> float | int | str:
        """What is kept, as a table shows it: a fraction, a rank, or a text; 0.0 for a whole weight."""
        keep: Keep | None = getattr(self, "keep", None)
        return 0.0 if keep is None else keep.table_label

    def controls(self, seed: int) -> dict[str, "SiteCut"]:
        """Cuts of as much, of no particular meaning, by the kind of control."""
        keep = getattr(self, "keep", 0)
        return {
            name: make(self.site, keep, seed, strength=self.strength)
            for name, make in SiteCut._controls.items()
        }

    def equals_the_cut(self, model: Any) -> bool:
        """Whether a control has nothing to draw, since nothing or everything is kept."""
        return False

    def kept_rank(self, model: Any) -> int:
        """How many components of its site's spectrum are kept."""
        keep = getattr(self, "keep", None)
        if keep is None:
            return 0
        max_rank = min(carrier(model, self.site).shape)
        count: int | None = keep.count(max_rank)
        if count is not None:
            return count
        return len(kept_components(shared_spectrum(model, self.site), keep, self.site))

    def to_json(self) -> dict[str, Any]:
        """The cut as plain data; `SiteCut.from_json` is the inverse.

        Examples:
            >>> SiteCut.from_json(Cut("blocks.0.mlp.W_in", keep=0.5).to_json())
            Cut(site='blocks.0.mlp.W_in', keep=Fraction(rho=0.5))
        """
        data: dict[str, Any] = {"kind": type(self).__name__}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Site):
                value = str(value)
            elif hasattr(value, "to_json"):
                value = value.to_json()
            data[each.name] = list(value) if isinstance(value, tuple) else value
        return data

    @staticmethod
    def from_json(data: dict[str, Any]) -> "SiteCut":
        """Reads a cut that `to_json` wrote.

        Raises:
            ValueError: if the kind is unknown or a value does not fit.
        """
        values = dict(data)
        kind = values.pop("kind", None)
        if kind not in SiteCut._kinds:
            raise ValueError(
                f"A cut's kind must be one of {', '.join(sorted(SiteCut._kinds))}, got {kind!r}."
            )
        if "keep" in values:
            values["keep"] = Keep.from_json(values["keep"])
        return SiteCut._kinds[kind](**values)

    def without_draw(self) -> dict[str, Any]:
        """The cut as plain data; of one that draws without the seed, so that all its draws are alike.

        A seed of what is no draw, such as of its groups, tells two settings apart and stays.

        Examples:
            >>> one, other = (tlt.RandomSubspace("blocks.0.mlp.W_in", 8, seed) for seed in (0, 1))
            >>> one.without_draw() == other.without_draw()
            True
        """
        data = self.to_json()
        if self.is_drawn:
            del data["seed"]
        return data

    def __repr__(self) -> str:
        shown = [f"site='{self.site}'"]
        names = [each.name for each in fields(self) if each.name not in ("site", "strength")]
        shown += [f"{name}={getattr(self, name)!r}" for name in names]
        if self.strength != 1.0:
            shown.append(f"strength={self.strength!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _strength(value: Any) -> float:
    found = real(value)
    if found is None or not math.isfinite(found):
        raise ValueError(
            f"A cut's strength must be a finite number (1 removes, 0 changes nothing), got {value!r}."
        )
    return found


def _seed(value: Any) -> int:
    return natural("A cut's seed", value)


_CHECKS = {"keep": as_keep, "strength": _strength, "seed": _seed}


@dataclass(frozen=True, repr=False)
class Cut(SiteCut):
    """Keeps part of a site's spectrum and removes the rest.

    `W_K = sum_{i in K} S_i U_i V_i^T`, which the model sees as `y -> b + (y - b) V_K V_K^T`.

    Args:
        site: a Site or its name.
        keep: an int is a rank, a float LASER's fraction of the maximum rank, or a Keep rule.
        strength: 1 removes, 0 changes nothing, -1 doubles the part that a cut would remove.

    Raises:
        ValueError: if the site's name, the keep or the strength does not fit.
        TypeError: if keep is neither a number nor a rule.

    Source: LASER (Sharma et al. 2023), section 3; closed form 1 of the documentation.

    Examples:
        >>> Cut("blocks.3.mlp.W_in", keep=0.1)
        Cut(site='blocks.3.mlp.W_in', keep=Fraction(rho=0.1))
    """

    keep: Keep

    def __init__(self, site: Site | str, keep: Keep | int | float, *, strength: float = 1.0) -> None:
        fill(self, site=site, keep=keep, strength=strength)

    def edit(self, model: Any) -> Edit:
        """The projection onto the kept components."""
        linear = carrier(model, self.site)
        if isinstance(self.keep, LaserCompat):
            require_sketchable(linear, self.site)
            return _sketch(linear, self.keep)
        trivial = trivial_projection(linear, self.keep)
        if trivial is not None:
            return trivial
        spec = shared_spectrum(model, self.site)
        kept = kept_components(spec, self.keep, self.site)
        return made_at(model, self.site, projection(spec, kept))


def fill(cut: SiteCut, **values: Any) -> None:
    """Fills a frozen dataclass whose arguments are wider than its fields (text for a Site)."""
    for name, value in values.items():
        object.__setattr__(cut, name, value)
    SiteCut.__post_init__(cut)


def kept_components(spec: SingularValues, keep: Keep, site: Site) -> torch.Tensor:
    """The components that a rule keeps, with the site's name in the error if it cannot."""
    try:
        return keep.indices(spec.S, spec.shape)
    except ValueError as problem:
        raise ValueError(f"{site}: {problem}") from None


def projection(spec: Directed, kept: torch.Tensor) -> Projection:
    """The truncation to the kept components, on the smaller of the kept and the removed side."""
    side, keeps = smaller_side(kept, spec.max_rank)
    return Projection(spec.columns(as_slice(side)), keeps)


def as_slice(places: torch.Tensor) -> slice | torch.Tensor:
    """A slice where ascending places are consecutive: a view instead of a copy.

    Examples:
        >>> as_slice(torch.tensor([3, 4, 5]))
        slice(3, 6, None)
    """
    if not len(places):
        return slice(0, 0)
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else places


def trivial_projection(linear: Linear, keep: Keep) -> Projection | None:
    """Nothing kept or everything kept: known from the shape alone, so no spectrum is computed."""
    max_rank = min(linear.shape)
    try:
        count = keep.count(max_rank)
    except ValueError as problem:
        raise ValueError(f"{linear.site}: {problem}") from None
    if count not in (0, max_rank):
        return None
    return nothing_but_bias(linear) if count == 0 else Projection(_no_directions(linear), keeps=False)


def nothing_but_bias(linear: Linear) -> Projection:
    """The projection onto no direction at all."""
    return Projection(_no_directions(linear), keeps=True)


def _no_directions(linear: Linear) -> torch.Tensor:
    return torch.zeros(linear.shape[1], 0, dtype=compute_dtype(linear.dtype))


def _sketch(linear: Linear, keep: LaserCompat) -> Edit:
    weight = linear.weight()
    left, right = keep.factors(weight)
    if weight.shape[1] >= weight.shape[0]:
        return Projection(right, keeps=True)  # the sketch was taken on the output side
    return Replacement(left, right)


def require_sketchable(linear: Linear, site: Site) -> None:
    """Refuses `LaserCompat` where its sketch would need an input that has no hook point.

    Raises:
        ValueError: if it would; and for a circuit, which the published code knows not.
    """
    if site.is_circuit:
        raise ValueError(
            f"LaserCompat sketches one weight, but {site} is the product of two. Use Fraction(rho)."
        )
    if linear.shape[1] < linear.shape[0] and linear.input is None:
        raise ValueError(
            f"LaserCompat on {linear.site} needs the linear's input, which HookedTransformer has no "
            "hook point for. Load the model as a TransformerBridge, or use Fraction(rho)."
        )


class Cuts(tuple[SiteCut, ...]):
    """Several cuts in the order in which they are made, with JSON on disk.

    Examples:
        >>> Cuts([Cut("blocks.0.mlp.W_in", 3)])
        Cuts([Cut(site='blocks.0.mlp.W_in', keep=Rank(k=3))])
    """

    def __new__(cls, *cuts: "SiteCut | Iterable[Any]") -> "Cuts":
        """Takes cuts, or lists of cuts, in any mixture.

        Raises:
            TypeError: if something is not a cut.
        """
        return super().__new__(cls, _flatten(cuts))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the cuts as JSON, under a temporary name first."""
        text = json.dumps({"format": 1, "cuts": [cut.to_json() for cut in self]}, indent=2)
        with replacing(path) as temporary:
            temporary.write_text(text + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Cuts":
        """Reads cuts that `save` wrote.

        Raises:
            ValueError: if the file does not hold cuts.
        """
        data = json.loads(as_path(path).read_text())
        if not isinstance(data, dict) or data.get("format") != 1 or "cuts" not in data:
            raise ValueError(f"{path} must be a file written by Cuts.save, got other content.")
        return cls([SiteCut.from_json(each) for each in data["cuts"]])

    def __repr__(self) -> str:
        return f"Cuts([{', '.join(map(repr, self))}])"


def _flatten(cuts: Iterable[Any]) -> Iterable[SiteCut]:
    for cut in cuts:
        if isinstance(cut, SiteCut):
            yield cut
        elif isinstance(cut, (list, tuple)):
            yield from _flatten(cut)
        else:
            raise TypeError(
                f"A cut must be a Cut, a control, a GlobalDirection or a GlobalRemoval, got {cut!r}. "
                "Write tlt.Cut('blocks.3.mlp.W_in', keep=0.1)."
            )
