"""Results and records as plain data, and back: one codec for all of them.

cattrs takes frozen dataclasses as they are: no base class, no second set of models (as pydantic would
want), and nothing is checked again where results are made. Reading is tolerant: a field that is not
known is passed over, and one that is missing takes its default, so that a file of another version loads.
"""

import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import cattrs
import numpy as np
import pandas as pd
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.v import format_exception
from torch import Tensor

from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.tasks.task import Task
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.spectrum import SingularValues, StoredValues

T = TypeVar("T")
_codec = cattrs.Converter()
#: In the metadata of a dataclass's field.
NEEDED = "needed"
#: Likewise: not written where it is its default, so that what was written before reads the same.
LEFT_OUT = "left out"


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
    name = getattr(kind, "__name__", str(kind))
    try:
        return _codec.structure(data, kind)
    except cattrs.BaseValidationError as problem:
        told = "; ".join(cattrs.transform_error(problem, path=name, format_exception=_told))
        raise ValueError(f"The data must be those of a {name}, but: {told}.") from problem
    except (ValueError, TypeError) as problem:
        raise ValueError(f"The data must be those of a {name}, but: {problem}.") from problem


def _told(problem: BaseException, kind: type | None) -> str:
    """The reason that is given, where there is one."""
    return (
        str(problem) if isinstance(problem, (ValueError, TypeError)) else format_exception(problem, kind)
    )


def _as_it_is(data: Any, kind: Any) -> Any:
    """A number stays what it was, whole or not: a configuration is known by how it is written."""
    wanted = (int, float) if kind is float else kind
    if not isinstance(data, wanted) or (isinstance(data, bool) and kind is not bool):
        raise TypeError(f"must be a {kind.__name__}, got {data!r:.40}")
    return data


def _frame(data: Any, _: Any) -> pd.DataFrame:
    if not isinstance(data, dict):
        raise TypeError(f"must be columns of a table, got {data!r:.40}")
    return pd.DataFrame(data)


def _task(data: Any, _: Any) -> Task:
    known = {each.name for each in fields(Task)}
    return Task.from_json({name: value for name, value in dict(data).items() if name in known})


def _with_all_that_is_needed(kind: type[T]) -> Callable[[Any, Any], T]:
    """Fields that have a default, but whose absence in a file would mean something else."""
    structure = make_dict_structure_fn(kind, _codec)
    needed = [each.name for each in fields(kind) if each.metadata.get(NEEDED)]  # type: ignore[arg-type]

    def whole(data: Any, _: Any) -> T:
        missing = [name for name in needed if name not in data]
        if missing:
            raise ValueError(f"{', '.join(missing)} must be there")
        return structure(data, _)

    return whole


def _without_defaults(kind: type) -> Callable[[Any], Any]:
    left = {
        each.name: override(omit_if_default=True) for each in fields(kind) if each.metadata.get(LEFT_OUT)
    }
    return make_dict_unstructure_fn(kind, _codec, **left)  # type: ignore[arg-type]


def _has_left_out(kind: Any) -> bool:
    return is_dataclass(kind) and any(each.metadata.get(LEFT_OUT) for each in fields(kind))


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
    (_is_kind_of(Task), lambda task: task.to_json(), _task),
    (
        _is_kind_of(pd.DataFrame),
        lambda frame: frame.to_dict(orient="list"),
        _frame,
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
_codec.register_structure_hook_factory(is_dataclass, _with_all_that_is_needed)
_codec.register_unstructure_hook_factory(_has_left_out, _without_defaults)
for _primitive in (bool, int, float, str):
    _codec.register_structure_hook(_primitive, _as_it_is)
for _fits, _write, _read in _HOOKS:
    _codec.register_unstructure_hook_func(_fits, _write)
    _codec.register_structure_hook_func(_fits, _read)
