"""Which output coordinates of a weight stand together: given, or found by k-means among its columns."""

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_truncate.checks import natural, positive, whole
from tl_truncate.weights.identity.content import content_key
from tl_truncate.weights.linear import where_float64_is
from tl_truncate.weights.locate import locate
from tl_truncate.weights.reading import as_stored
from tl_truncate.weights.site import Site

_ROUNDS = 50
# Finding labels takes as long as finding spectra, and they take no room beside those.
_REMEMBERED = 256
_memory: "OrderedDict[tuple[str, int, int], tuple[int, ...]]" = OrderedDict()


def cluster_columns(weight: Float[Tensor, "n_in n_out"], groups: int, seed: int = 0) -> tuple[int, ...]:
    """Labels of a weight's columns by k-means, numbered in the order in which they appear.

    The columns are brought to length 1 first: what a group has in common is to be a subspace, and that
    holds of a short column as of a long one. The first centres are distinct columns, drawn far from each
    other as in k-means++.

    Args:
        weight: its columns belong to the output coordinates.
        groups: how many; there may be fewer where columns are alike, since none is empty.
        seed: of the first centres; the global random state is left as it was.

    Returns:
        One label for each column.

    Source: Lloyd 1982; Arthur and Vassilvitskii 2007 for the first centres.

    Examples:
        >>> cluster_columns(torch.tensor([[1.0, 0.0, 9.0, 0.0], [0.0, 2.0, 0.1, 3.0]]), 2)
        (0, 1, 0, 1)
    """
    from scipy.cluster.vq import kmeans2  # which takes its time to import

    columns = where_float64_is(weight.detach()).double().cpu().T.numpy()
    lengths = np.linalg.norm(columns, axis=1, keepdims=True)
    columns = columns / np.where(lengths > 0, lengths, 1.0)
    centres = _first_centres(columns, groups, np.random.default_rng(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a group that has lost its last column gets no label
        _, labels = kmeans2(columns, centres, iter=_ROUNDS, minit="matrix")
    return _numbered(labels.tolist())


def _first_centres(columns: Any, groups: int, random: np.random.Generator) -> Any:
    chosen = [int(random.integers(len(columns)))]
    nearest = np.square(columns - columns[chosen[0]]).sum(axis=1)
    while len(chosen) < groups and nearest.max() > 0:
        chosen.append(int(random.choice(len(columns), p=nearest / nearest.sum())))
        nearest = np.minimum(nearest, np.square(columns - columns[chosen[-1]]).sum(axis=1))
    return columns[chosen]


def _numbered(labels: Sequence[Any]) -> tuple[int, ...]:
    """Labels as numbers from 0 in the order in which they appear: names of groups mean nothing."""
    numbers: dict[Any, int] = {}
    return tuple(numbers.setdefault(label, len(numbers)) for label in labels)


@dataclass(frozen=True)
class Grouping:
    """Which output coordinates of a site stand together.

    Args:
        groups: how many k-means is to find among the weight's columns, or a label of each coordinate;
            labels are numbered in the order in which they appear, since their names mean nothing.
        seed: of the k-means.

    Raises:
        ValueError: if it is neither.

    Examples:
        >>> Grouping(["b", "a", "b"])
        Grouping(groups=(0, 1, 0), seed=0)
    """

    groups: int | tuple[int, ...]
    seed: int = 0

    def __init__(self, groups: Any, seed: Any = 0) -> None:
        object.__setattr__(self, "groups", checked_groups(groups))
        object.__setattr__(self, "seed", natural("A cut's seed", seed))

    def __str__(self) -> str:
        if isinstance(self.groups, int):
            return f"{self.groups} groups"
        return f"{max(self.groups) + 1} given groups"

    def of(self, model: Any, site: Site) -> list[tuple[Int64[Tensor, " size"], Tensor]]:
        """The coordinates of each group, and their columns of the weight as it is stored.

        Raises:
            ValueError: if the site has fewer coordinates than groups, or another number of them than
                labels.
        """
        with as_stored():
            weight = locate(model, site).weight()
        labels = torch.tensor(self._labels(weight, site))
        own = [(labels == group).nonzero()[:, 0] for group in range(int(labels.max()) + 1)]
        return [(each, weight[:, each.to(weight.device)]) for each in own]

    def _labels(self, weight: Tensor, site: Site) -> tuple[int, ...]:
        width = weight.shape[1]
        if not isinstance(self.groups, int):
            if len(self.groups) != width:
                raise ValueError(
                    f"groups must have a label for each of the {width} output coordinates of {site}, "
                    f"got {len(self.groups)} labels."
                )
            return self.groups
        if self.groups > width:
            raise ValueError(
                f"groups must be at most {width}, the number of output coordinates of {site}, got "
                f"{self.groups}."
            )
        key = (content_key(weight), self.groups, self.seed)
        if key not in _memory:
            _memory[key] = cluster_columns(weight, self.groups, self.seed)
        _memory.move_to_end(key)
        while len(_memory) > _REMEMBERED:
            _memory.popitem(last=False)
        return _memory[key]


def checked_groups(value: Any) -> int | tuple[int, ...]:
    """A number of groups, or labels as numbers in the order in which they appear.

    Raises:
        ValueError: if it is neither.
    """
    number = whole(value)
    if number is not None:
        return positive("groups", number)
    labels = value.tolist() if hasattr(value, "tolist") else value
    plain = isinstance(labels, (list, tuple)) and len(labels) > 0
    if not plain or any(whole(label) is None and not isinstance(label, str) for label in labels):
        raise ValueError(
            "groups must be a number of groups, or a label for each output coordinate (whole numbers or "
            f"texts), got {value!r}."
        )
    return _numbered(labels)
