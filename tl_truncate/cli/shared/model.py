"""A model as the options name it, and how much of it runs at once."""

import contextlib
import io
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from tl_truncate.checks import meant, positive
from tl_truncate.cli.shared.options import (
    BackendName,
    BatchSize,
    Checkpoint,
    Device,
    Dtype,
    MaxMemory,
    ModelName,
    Verbose,
)
from tl_truncate.cli.shared.quiet import without_bars
from tl_truncate.models import Backend, Checkpoints, load_model
from tl_truncate.runs.workers.sending import placed

#: Kinds of devices that models are put on.
DEVICES = ("cpu", "cuda", "mps", "xpu", "meta")
L = TypeVar("L", bound="LoadOptions")


def check_device(name: str | None) -> str | None:
    """A device that this machine has, before anything is put on it.

    Raises:
        ValueError: if it is none, or not here.

    Examples:
        >>> check_device("cpu")
        'cpu'
    """
    if name is None:
        return None
    kind = name.partition(":")[0]
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"--device must read like cpu, cuda or cuda:1, got {name!r}.{meant(kind, DEVICES)}"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        there = torch.cuda.device_count()
        raise ValueError(f"--device {name} must be one of this machine's, which has {there} GPUs.")
    return name


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How models are loaded."""

    backend: BackendName = "bridge"
    dtype: Dtype = "float32"
    device: Device = None
    verbose: Verbose = False

    def load_step(self, name: str, step: int | None) -> Any:
        """A model; what the libraries print is no result, and kept off unless --verbose."""
        options: dict[str, Any] = dict(
            dtype=self.dtype, device=check_device(self.device), checkpoint=step
        )
        shown = sys.stderr if self.verbose else io.StringIO()
        with contextlib.redirect_stdout(shown), without_bars(verbose=self.verbose):
            return load_model(name, backend=cast(Backend, self.backend), **options)

    def checkpoints(
        self, name: str, *, cache_dir: Path | None = None, delete_after: bool = False
    ) -> Checkpoints:
        """The models of a training run."""
        check_device(self.device)
        return Checkpoints(
            name,
            cache_dir,
            delete_after=delete_after,
            backend=cast(Backend, self.backend),
            dtype=self.dtype,
            device=self.device,
        )

    def on_a_worker(self: L, *, gpus: float) -> L:
        """As a worker loads: where nothing else is asked, on its GPU if it has one."""
        return replace(self, device=self.device or ("cuda" if gpus else "cpu"))


@dataclass(frozen=True, kw_only=True)
class ModelOptions(LoadOptions):
    """One model."""

    model: ModelName
    checkpoint: Checkpoint = None

    def load(self) -> Any:
        """The model."""
        return self.load_step(self.model, self.checkpoint)

    def as_code(self) -> str:
        """The arguments of `load_model` that give the same model, as code.

        Examples:
            >>> ModelOptions(model="nano-pythia", checkpoint=64).as_code()
            "'nano-pythia', checkpoint=64"
        """
        usual = ModelOptions(model=self.model)  # of which each is the library's own
        names = ("checkpoint", "backend", "dtype", "device")
        given = {name: getattr(self, name) for name in names}
        told = [f"{name}={value!r}" for name, value in given.items() if value != getattr(usual, name)]
        return ", ".join([repr(self.model), *told])

    def on_a_worker(self, *, gpus: float) -> "ModelOptions":
        """As a worker loads it, which may be at work in another folder."""
        return replace(super().on_a_worker(gpus=gpus), model=placed(self.model))


@dataclass(frozen=True, kw_only=True)
class PassOptions:
    """How much runs at once."""

    batch_size: BatchSize = 32
    max_memory: MaxMemory = None

    def check(self) -> None:
        """That they mean something, where a command may have no use for them.

        Raises:
            ValueError: if they do not.
        """
        positive("--batch-size", self.batch_size)
        self.to_arguments()

    def to_arguments(self) -> dict[str, Any]:
        """As the library takes them, the memory in bytes."""
        if self.max_memory is None:
            return dict(batch_size=self.batch_size, max_memory=None)
        if not 0 < self.max_memory < math.inf:
            raise ValueError(
                f"--max-memory must be a positive number of gigabytes, got {self.max_memory}."
            )
        return dict(batch_size=self.batch_size, max_memory=int(self.max_memory * 2**30))


#: Of the commands that sweep: prompts share a pass with many cuts there, or run in few blocks.
SWEPT = PassOptions(batch_size=64)
