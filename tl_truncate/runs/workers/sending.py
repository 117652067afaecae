"""What goes to another process: functions and plain data, never a model."""

import io
from collections.abc import Callable
from functools import partial
from os import PathLike, fspath
from typing import Any

from torch import nn

from tl_truncate.checkpoints import NANO_MODEL, folder_of
from tl_truncate.models import load_model
from tl_truncate.runs.workers.ray import Ray

#: Gives the model of a worker, in the worker.
Load = Callable[[], Any]


def as_load(model: Any, on: Ray) -> Load:
    """What each worker loads: a name or folder as `load_model` does, or what a function gives.

    Args:
        model: the name, folder or function.
        on: whose workers have GPUs or not.

    Raises:
        TypeError: if it is a model, or holds one, which would be copied into each worker; or something
            else.
        ValueError: if it is a function that cannot be sent, or a name for several GPUs.

    Examples:
        >>> as_load("nano-pythia", tlt.Ray(workers=2)).keywords
        {'device': 'cpu'}
    """
    if isinstance(model, nn.Module):
        raise TypeError(
            "With on=, each worker must load its model: give a name, a folder or a function without "
            f"arguments, got a {type(model).__name__}, which is not sent to other processes."
        )
    if isinstance(model, (str, PathLike)):
        if on.gpus > 1:
            raise ValueError(
                f"With gpus={on.gpus:g}, a function must divide the model over the GPUs of its worker, "
                f"got {fspath(model)!r}. Write lambda: TransformerBridge.boot_transformers(name, "
                "n_devices=...)."
            )
        return partial(load_model, placed(fspath(model)), device="cuda" if on.gpus else "cpu")
    if not callable(model):
        raise TypeError(
            "With on=, the model must be given as a name, a folder or a function without arguments, got "
            f"{model!r:.60}."
        )
    require_sendable(model, "The function that loads the model")
    return model  # type: ignore[no-any-return]


def placed(name: str) -> str:
    """A model's name; of a folder its whole path, since a worker may be at work in another one.

    Examples:
        >>> placed("pythia-70m")
        'pythia-70m'
    """
    folder = folder_of(name)
    return str(folder.resolve()) if name != NANO_MODEL and folder.is_dir() else name


def require_sendable(value: Any, told: str) -> None:
    """Refuses what cannot go to another process, or would take a model along, before any work.

    Args:
        value: to be sent.
        told: what it is, at the beginning of a sentence.

    Raises:
        TypeError: if a model is in it.
        ValueError: if it cannot be sent.
    """
    from ray.cloudpickle import CloudPickler

    class Pickler(CloudPickler):  # type: ignore[misc]
        """Stops at a model."""

        def reducer_override(self, obj: Any) -> Any:
            """As cloudpickle reduces it."""
            if isinstance(obj, nn.Module):
                raise _Holds(type(obj).__name__)
            return super().reducer_override(obj)

    try:
        Pickler(io.BytesIO()).dump(value)
    except _Holds as found:
        raise TypeError(
            f"{told} must make or load its model in the worker, but it holds a {found} of this process, "
            "which is not sent to others. Load it inside the function."
        ) from None
    except (TypeError, AttributeError, ValueError, RecursionError) as problem:
        raise ValueError(
            f"{told} must be something that can be sent to another process, but it cannot: {problem}. "
            "Open, lock or generate what it needs inside a function."
        ) from None


class _Holds(Exception):
    """A model was found in what is to be sent."""
