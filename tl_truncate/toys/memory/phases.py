"""Which end of the spectrum holds the noise, over the number of associations, alpha and time."""

from collections.abc import Sequence

import pandas as pd

from tl_truncate.toys.memory.memory import AssociativeMemory
from tl_truncate.weights.keep import DropTop, Rank


def memory_phases(
    *,
    ns: Sequence[int] = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
    alphas: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    times: Sequence[float] = (1.0, 100.0, 10_000.0),
) -> pd.DataFrame:
    """The noise against the associations in the memory's spectrum, by n, alpha and time.

    Args:
        ns: numbers of associations.
        alphas: noise probabilities.
        times: of training, in units of the gradient flow.

    Returns:
        A row for each (n, alpha, time): association and noise (singular values), ratio (noise over
        association; above 1 the noise is in the top direction), and p_correct of the memory in full,
        without its noise component's end of the spectrum (`drop_top` and `drop_bottom`, one component).

    Examples:
        >>> table = memory_phases(ns=(2, 64), alphas=(0.5,), times=(1e5,))
        >>> (table["ratio"] > 1).tolist()
        [False, True]
    """
    rows = []
    for n in ns:
        for alpha in alphas:
            memory = AssociativeMemory(n, alpha)
            for time in times:
                association, noise = memory.singular_values(time)
                rows.append(
                    dict(
                        n=n,
                        alpha=alpha,
                        time=time,
                        association=association,
                        noise=noise,
                        ratio=noise / association,
                        p_correct=memory.predict(time)[0],
                        drop_top=memory.predict(time, DropTop(1))[0],
                        drop_bottom=memory.predict(time, Rank(n - 1))[0],
                    )
                )
    return pd.DataFrame(rows)
