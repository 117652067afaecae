"""A Ray to work in: one that is running, or one of our own that ends with the work."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tl_truncate.runs.workers.ray import Ray

# Of shared memory, for results, which are small: Ray's default is a third of a machine's memory.
_STORE_BYTES = 256 * 2**20
_QUIET = logging.ERROR


@contextmanager
def connected(on: Ray) -> Iterator[None]:
    """Inside, this process is connected to a Ray that has room for the workers.

    Raises:
        ConnectionError: if there is none at the address.
        ValueError: if it has no room for the workers.
    """
    import ray

    if ray.is_initialized():
        _require_this(on)
        _require_room(on)
        yield
        return
    logger = logging.getLogger("ray")
    loud = logger.level
    logger.setLevel(_QUIET)
    options: dict[str, Any] = dict(log_to_driver=False, logging_level=_QUIET)
    address = running(on)
    try:
        if address is None:
            _start(on, options)
        else:
            _connect(address, options)
        _require_room(on)
        yield
    finally:
        ray.shutdown()  # of a Ray that was running, this takes leave alone
        logger.setLevel(loud)


def _require_this(on: Ray) -> None:
    """That the Ray which this process is connected to is the one that is asked for."""
    import ray

    own = ray.get_runtime_context().gcs_address
    if on.address not in (None, "auto", "local", own):
        raise ValueError(
            f"This process must not be connected to another Ray than {on.address}, but it is to that at "
            f"{own}. Call ray.shutdown() first, or leave the address away."
        )


def running(on: Ray) -> str | None:
    """The address of a Ray that is there already.

    What `ray start` has noted on this machine outlives a Ray that was killed, and is asked.
    """
    from ray._private.services import find_bootstrap_address

    asked = on.address or os.environ.get("RAY_ADDRESS")
    if asked:
        return None if asked == "local" else asked
    noted: str | None = find_bootstrap_address(None)
    return noted if noted and _listens(noted) else None


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
            return True
    except (OSError, ValueError):
        return False


def _start(on: Ray, options: dict[str, Any]) -> None:
    import ray

    cpus = max(os.cpu_count() or 1, on.workers * on.threads)
    own = dict(num_cpus=cpus, object_store_memory=_STORE_BYTES, include_dashboard=False)
    for again in (True, False):
        try:
            ray.init(address="local", **own, **options)
            return
        except Exception as problem:  # Ray raises no other when its processes take too long to start
            ray.shutdown()
            if not again:
                raise ChildProcessError(
                    f"Ray must start on this machine, but it did not, twice ({problem}). Is the machine "
                    "very busy, or short of memory? Its logs are in /tmp/ray/session_latest/logs."
                ) from problem


def _connect(address: str, options: dict[str, Any]) -> None:
    import ray

    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as problem:
        raise ConnectionError(
            f"A Ray must be running at {address}, but it could not be reached "
            f"({str(problem).splitlines()[0]}). Start it with `ray start`, give another address, or "
            "address='local' for one of this machine alone."
        ) from problem


def _require_room(on: Ray) -> None:
    """That all workers can be placed, as far as the machines themselves go."""
    import ray

    asked = on.resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(min(int(node.get(name, 0) / amount) for name, amount in asked.items()) for node in nodes)
    if room < on.workers:
        there = "; ".join(", ".join(f"{node.get(name, 0):g} {name}" for name in asked) for node in nodes)
        raise ValueError(
            f"There must be room for {on}, but there is room for {room}, on {len(nodes)} machine"
            f"{'' if len(nodes) == 1 else 's'} with {there}. Ask for fewer or smaller workers, or add "
            "machines to the cluster."
        )
