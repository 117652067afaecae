"""How many workers Ray gives to a run, and what each of them has."""

import math
import os
from dataclasses import dataclass
from typing import Any

from tl_truncate.checks import as_integers, real, require_extra

#: How many threads the libraries of a worker start; read when they are loaded.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Of the disk cache, which workers keep where this process does.
_SHARED = ("TL_TRUNCATE_CACHE", "TL_TRUNCATE_CACHE_GB")


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Workers of a Ray cluster, each a process that loads the model once.

    A Ray that is running already, at `address`, at `RAY_ADDRESS` or begun by `ray start` on this
    machine, is used and goes on afterwards; else one is started on this machine and ended with the work.
    The numbers are those of one process with as many threads, bit for bit on the same kind of processor.

    Args:
        workers: processes with a model each.
        gpus: of each worker: none, a share such as 0.5 (which limits no memory), one, or several, over
            which the model is divided.
        threads: of each worker.
        address: of a cluster, such as `10.0.0.1:6379`; `local` starts one even if another is running.
        memory: bytes that a machine must have for each worker that is placed there. It is no limit: what
            a worker uses beside its model is bounded by `max_memory`.

    Raises:
        ValueError: if a number is none.
        TypeError: if the address is no text.

    Source: Moritz et al. 2018 (arXiv 1712.05889).

    Examples:
        >>> tlt.Ray(workers=8, gpus=1)
        Ray(workers=8, gpus=1.0, threads=1, address=None, memory=None)
    """

    workers: int
    gpus: float = 0.0
    threads: int = 1
    address: str | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        as_integers(self, "workers", "threads", "memory")
        found = real(self.gpus)
        if found is None or not 0 <= found < math.inf or (found > 1 and found != int(found)):
            raise ValueError(
                f"gpus must be 0, a share of one such as 0.5, or a whole number, got {self.gpus!r}."
            )
        object.__setattr__(self, "gpus", found)
        if self.address is not None and not isinstance(self.address, str):
            raise TypeError(
                f"address must be a text such as '10.0.0.1:6379' or 'local', got {self.address!r}."
            )

    def resources(self) -> dict[str, float]:
        """What one worker takes of a machine, by Ray's names."""
        asked = dict(CPU=float(self.threads), GPU=self.gpus, memory=float(self.memory or 0))
        return {name: amount for name, amount in asked.items() if amount}

    def environment(self) -> dict[str, str]:
        """The variables of a worker, in place before torch is loaded there."""
        shared = {name: os.environ[name] for name in _SHARED if name in os.environ}
        return {**dict.fromkeys(_THREADS, str(self.threads)), "TQDM_DISABLE": "1", **shared}

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        memory = f", {self.memory / 1e9:.3g} GB" if self.memory else ""
        return f"{self.workers} workers of {self.threads} CPU{gpus}{memory} each"


def as_ray(on: Any) -> Ray:
    """Where work is to be done, checked before any work: the kind, and that Ray is installed.

    Raises:
        TypeError: if it is something else.
        ModuleNotFoundError: if Ray is not installed.
    """
    if not isinstance(on, Ray):
        raise TypeError(f"on must be tlt.Ray(workers=...), got {on!r}.")
    require_extra("ray", otherwise="Or go without it: one process, or shard=(i, n) in several.")
    return on
