"""A device that computes as the CPU does, but is another one: `twin`.

A tensor there is a tensor of the CPU behind a wrapper that says where it is. What a card refuses is refused
here: an operation on tensors of two devices, and numbers read from a tensor without a copy to the CPU
first. So faults that show on a card alone show without one, and the numbers must be the CPU's own, bit for
bit. What cannot be shown is a card's own arithmetic. Two things are the twin's own faults: a parameter
detached under `inference_mode`, and rotary angles of a model that transformers reads from a folder, which
stay unfilled.
"""

from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from tl_truncate.weights import stored

NAME = "twin"
#: Operations that two devices may share, as on a card: a copy, and an index that lies on the host.
_ACROSS = {"copy_", "_to_copy", "_copy_from", "_copy_from_and_resize"}
_INDEXED = {"index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index"}


class Twin(torch.Tensor):
    """A tensor on the other device; its numbers lie on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> "Twin":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=torch.device(NAME, 0),
        )
        made.numbers = numbers
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> "Twin":
        if id(self) not in memo:
            made = Twin(self.numbers.clone()).requires_grad_(self.requires_grad)
            memo[id(self)] = (
                torch.nn.Parameter(made, self.requires_grad) if hasattr(self, "_is_param") else made
            )
        return memo[id(self)]

    def tolist(self) -> Any:
        return self.numbers.tolist()

    def data_ptr(self) -> int:
        return self.numbers.data_ptr()

    def untyped_storage(self) -> Any:
        return self.numbers.untyped_storage()

    def numpy(self, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def __repr__(self, **kwargs: Any) -> str:
        return f"twin of {self.numbers!r}"


def _run(operation: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, if a card would run it."""
    name = operation._schema.name.removeprefix("aten::")
    given = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    _require_one_device(name, args, given)
    wanted = kwargs.get("device")
    there = any(isinstance(each, Twin) for each in given) if wanted is None else _is_twin(wanted)
    if name == "copy_":
        there = isinstance(args[0], Twin)
    whose = {id(each.numbers): each for each in given if isinstance(each, Twin)}
    plain_args, plain = pytree.tree_map(_numbers, (args, kwargs))
    found = operation(*plain_args, **plain)
    if torch.Tag.inplace_view in operation.tags:  # the wrapper gets its numbers' new shape
        with no_dispatch():
            operation(*args, **kwargs)

    def back(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in whose:
            return whose[id(value)]
        return Twin(value) if there else value

    return pytree.tree_map(back, found)


def _require_one_device(name: str, args: tuple, given: list[torch.Tensor]) -> None:
    if name in _ACROSS or not any(isinstance(each, Twin) for each in given):
        return
    looked = given[:1] + given[-1:] if name in _INDEXED else given
    if name in _INDEXED:
        looked = [args[0], *([args[2]] if len(args) > 2 else [])]
    foreign = [each for each in looked if not isinstance(each, Twin) and each.ndim]
    if foreign and (name in _INDEXED or any(isinstance(each, Twin) for each in looked)):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {name} found at least two, {NAME}:0 and cpu"
        )


def _numbers(value: Any) -> Any:
    if isinstance(value, Twin):
        return value.numbers
    return torch.device("cpu") if isinstance(value, torch.device) and _is_twin(value) else value


def _is_twin(device: Any) -> bool:
    return torch.device(device).type == NAME


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def register() -> None:
    """Makes the device known to torch, once a process."""
    _setup_privateuseone_for_python_backend(NAME, _Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda operation, *args, **kwargs: _run(operation, args, kwargs), "PrivateUse1")
    _kept.append(library)
    torch.tensor, torch.as_tensor = _by_the_host(torch.tensor), _by_the_host(torch.as_tensor)
    # What the package takes for the parameters of a model is torch's own two classes.
    stored._PLAIN = (*stored._PLAIN, Twin)
    torch.__future__.set_swap_module_params_on_conversion(True)


def _by_the_host(make: Any) -> Any:
    """torch's own way to the device of a Python backend fails, so numbers are made here and then moved."""

    def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        if device is None or not _is_twin(device):
            return make(data, *args, device=device, **kwargs)
        return make(data, *args, **kwargs).to(device)

    return made


_kept: list[torch.library.Library] = []
