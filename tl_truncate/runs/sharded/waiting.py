"""Where all shards need what each has found: waiting for each other, with a word on whom."""

import os
import sys
import time

from tqdm.auto import tqdm

from tl_truncate.checks import real
from tl_truncate.runs.sharded.joining import Joined, join
from tl_truncate.runs.sharded.kinds import RunKind
from tl_truncate.runs.shards import Shard

#: Seconds for which a shard waits for others that do not get on.
PATIENCE = 3600.0
# Seconds between two looks into the folder, at first and at last.
_SOON, _LATER = 0.05, 5.0


def check_patience(value: object) -> float:
    """A number of seconds above 0.

    Raises:
        ValueError: if it is none.

    Examples:
        >>> check_patience(60)
        60.0
    """
    found = real(value)
    if found is None or not found > 0:
        raise ValueError(f"patience must be a number of seconds above 0, got {value!r}.")
    return found


def whole_run(
    run_dir: str | os.PathLike[str],
    shard: Shard,
    kind: RunKind,
    *,
    patience: float,
    progress: bool,
    label: str,
) -> Joined:
    """A run, once all its shards are finished.

    Args:
        run_dir: of the run.
        shard: that waits, and has finished its own share.
        kind: of run.
        patience: seconds to wait while no other shard gets on.
        progress: says whom the shard waits for.
        label: of what it waits in.

    Raises:
        TimeoutError: if no other shard has got on for so long, with which it waits for.
        ValueError: if a shard is of another run.
    """
    moved, told, pause, waits_for = time.monotonic(), None, _SOON, ""
    while not (joined := join(run_dir, kind)).finished:
        if joined.lacking != told:
            moved, told, pause = time.monotonic(), joined.lacking, _SOON
            names = ", ".join(each.split()[0] for each in joined.lacking)
            if progress and names != waits_for:
                tqdm.write(f"{label}: shard {shard} waits for {names}", file=sys.stderr)
                waits_for = names
        if time.monotonic() - moved > patience:
            raise TimeoutError(
                f"Shard {shard} has waited {patience:g} seconds for others in {run_dir} that do not get "
                f"on: {', '.join(joined.lacking)}. Start those; the same call goes on from here. Or "
                "give a larger patience."
            )
        time.sleep(pause)
        pause = min(2 * pause, _LATER)
    return joined
