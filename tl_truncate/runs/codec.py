"""Results and records as plain data, and back: one codec for all of them.

cattrs takes frozen dataclasses as they are: no base class, no second set of models (as pydantic would
want), and nothing is checked again where results are made. Reading is tolerant: a field that is not
known is passed over, and one that is missing takes its default, so that a file of another version loads.
"""

import typing
from collections.abc import Callable
from typing import Any, TypeVar

import cattrs
import numpy as np
import pandas as pd
from torch import Tensor

from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.tasks.task import Task
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectrum import SingularValues, StoredValues

T = TypeVar("T")
_codec = cattrs.Converter()


def plain(value: Any) -> Any:
    """Plain data: what JSON has, and tensors, which have a file of their own.

    Examples:
        >>> plain({Site(0, "W_in"): tlt.Rank(3)})
        {'blocks.0.mlp.W_in': {'rule': 'Rank', 'k': 3}}
    """
    return _codec.unstructure(value)


def read(kind: type[T], data: Any) -> T:
    """What `plain` was made of, to the last bit.

    Raises:
        ValueError: if something that cannot be done without is missing or of another form.

    Examples:
        >>> read(Site, "blocks.0.mlp.W_in")
        Site(layer=0, matrix='W_in', head=None)
    """
    try:
        return _codec.structure(data, kind)
    except cattrs.BaseValidationError as problem:
        told = "; ".join(cattrs.transform_error(problem, path=kind.__name__))
        raise ValueError(f"The data must be those of a {kind.__name__}, but: {told}.") from problem


def _is_kind_of(base: type) -> Callable[[Any], bool]:
    return lambda kind: isinstance(kind, type) and issubclass(kind, base)


def _is_array(kind: Any) -> bool:
    return (typing.get_origin(kind) or kind) is np.ndarray


def _is_tensor(kind: Any) -> bool:
    # An annotation of jaxtyping's knows of which type the array is.
    return kind is Tensor or getattr(kind, "array_type", None) is Tensor


_HOOKS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Any], Callable[[Any, Any], Any]], ...] = (
    (_is_kind_of(Site), str, lambda data, _: Site.parse(data)),
    (_is_kind_of(Keep), lambda keep: keep.to_json(), lambda data, _: Keep.from_json(data)),
    (_is_kind_of(SiteCut), lambda cut: cut.to_json(), lambda data, _: SiteCut.from_json(data)),
    (
        _is_kind_of(Cuts),
        lambda cuts: [cut.to_json() for cut in cuts],
        lambda data, _: Cuts([SiteCut.from_json(cut) for cut in data]),
    ),
    (_is_kind_of(Task), lambda task: task.to_json(), lambda data, _: Task.from_json(data)),
    (
        _is_kind_of(pd.DataFrame),
        lambda frame: frame.to_dict(orient="list"),
        lambda data, _: pd.DataFrame(data),
    ),
    (
        # Singular vectors are a spectrum's, which the weights have; a result keeps the values.
        _is_kind_of(SingularValues),
        lambda values: dict(site=str(values.site), S=values.S, shape=list(values.shape)),
        lambda data, _: StoredValues(Site.parse(data["site"]), data["S"], *data["shape"]),
    ),
    (_is_array, lambda array: array.tolist(), lambda data, _: np.array(data)),
    (_is_tensor, lambda tensor: tensor, lambda data, _: data),
)
for _fits, _write, _read in _HOOKS:
    _codec.register_unstructure_hook_func(_fits, _write)
    _codec.register_structure_hook_func(_fits, _read)
