"""Tests with their models on another device: `pytest --device cuda`, or `--device twin` without a card."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import architectures
import plan
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

TESTS = str(Path(__file__).parent)
PACKAGE = str(Path(__file__).parents[1] / "tl_truncate")
#: What is run there: surgery's laws, replay, sweeps, decompositions and exports; all else has nothing of a
#: device, or is made of these. `make gpu` collects them from here.
FILES = (
    "surgery/",
    "replay/",
    "decompose/",
    "export/test_laws.py",
    "experiments/sweep/test_sweep.py",
    "experiments/scoring/test_evaluate.py",
    "experiments/screening/",
    "weights/test_spectrum.py",
    "test_post_norm.py",
)

#: Beginnings of the names of tests that cannot run there, and why.
NOT_THERE = {
    "surgery/test_quantised.py": "its kernels and its packing are the CPU's",
    "surgery/test_offloaded.py": "its models lie on the CPU and on disk",
    "surgery/test_controls.py": "it is of matrices that are built on the CPU",
    "surgery/test_cut.py": "it has no model",
    "surgery/test_states.py::test_compiled": "what computes for tests on one device is not traced",
}


def runs(name: str) -> bool:
    """Whether a test, by its name, runs on another device than the CPU."""
    return name.startswith(FILES) and not name.startswith(tuple(NOT_THERE))


def use(device: str, manager: pytest.PytestPluginManager) -> None:
    """Has all models of the tests built on a device, and each test run under the mode."""
    manager.register(Around())
    if device == "twin":
        import twin_device

        twin_device.register()
    # TF32 rounds the factors of a float32 product to 11 bits, an error of 3e-4, which no law here allows.
    torch.set_float32_matmul_precision("highest")
    # It asks for one device itself, before torch does.
    torch.testing.assert_close = partial(torch.testing.assert_close, check_device=False)
    architectures.DEVICE = torch.device(device)


def ordered(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """As they are handed out there: each test once, laws first, and then with its other parameters.

    Time on a lent card is short, and what fails for one parameter mostly fails for all.
    """
    seen: set[str] = set()

    def place(item: pytest.Item) -> tuple[bool, int]:
        name = plan.name(item.nodeid)
        test = name.partition("[")[0]
        again = test in seen
        seen.add(test)
        return again, next(index for index, start in enumerate(FILES) if name.startswith(start))

    return sorted(items, key=place)


class OnOneDevice(TorchFunctionMode):
    """What a test itself computes from tensors of two devices, it computes on the model's.

    Tests draw tokens, write expected values and read numbers as one does on the CPU. What the package asks
    torch for stays as it is: a tensor in the wrong place there is a fault, and shows as on a card.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _READS:
            if args[0].device != _HOST and asked_by_a_test():
                args = (args[0].cpu(), *args[1:])
        elif function not in _MOVES:
            given = {each.device.type for each in _tensors((*args, *kwargs.values()))}
            if given == {"cpu", architectures.DEVICE.type} and asked_by_a_test():
                in_place = function.__name__.endswith("_") and not function.__name__.endswith("__")
                there = args[0].device if in_place else architectures.DEVICE
                args, kwargs = pytree.tree_map(partial(_moved, there), (args, kwargs))
        return function(*args, **kwargs)


_HOST = torch.device("cpu")
_READS = (torch.Tensor.numpy, torch.Tensor.__array__)
#: Also how `Module.to` gives a parameter its numbers: on a moved copy of it that would be in vain.
_MOVES = (
    torch.Tensor.to,
    torch.Tensor.copy_,
    torch.Tensor.type_as,
    torch.Tensor.__setitem__,
    torch.Tensor.data.__set__,
    torch.Tensor.grad.__set__,
    torch.autograd.grad,
    torch._has_compatible_shallow_copy_type,
)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Also those in lists; torch's own way takes longer than a small operation."""
    for each in values:
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, (list, tuple)):
            yield from _tensors(each)


def _moved(device: torch.device, value: Any) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def asked_by_a_test() -> bool:
    """Whether the innermost call of this repository is a test's, and not the package's."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE):
            return False
        if file.startswith(TESTS) and file != __file__:
            return True
        frame = frame.f_back
    return False


class Around:
    """Each test under the mode; fixtures of modules too, which are made in the first test that asks."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        with OnOneDevice():
            return (yield)


if __name__ == "__main__":
    left_out = [f"--ignore=tests/{name}" for name in NOT_THERE if name.endswith(".py")]
    print(*[f"tests/{name}" for name in FILES], *left_out)
