"""The colours and the direction of heatmaps: one scale, wherever changes are drawn.

Blue is less than the uncut model, orange is more, and a quiet grey is no change. Layer 0 lies at the
bottom and the last layer on top, as the residual stream flows.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tl_truncate.markup import LESS, MORE

#: From less, over nothing, to more: stops at 0, one half and 1, for a light ground.
DIVERGING = (LESS, "#F4F4F2", MORE)
#: The same for a dark ground, where pure colours would be too deep to be told apart.
DIVERGING_DARK = ("#4AA3DF", "#262B31", "#EF7D3C")
#: The share of changes that lie within the ends of the scale.
WITHIN = 0.9
#: The smallest end of a scale; float32's rounding of a probability is a thousandth of it.
LEAST = 1e-4
#: Where the first row of a heatmap of layers lies, as matplotlib says it: layer 0 at the bottom.
ORIGIN: Literal["lower"] = "lower"


def scale_end(changes: ArrayLike) -> float:
    """Where a diverging scale ends: the largest tenth of the changes lies beyond its two ends.

    Args:
        changes: all that are drawn with this scale, in all panels; NaN is left out.

    Returns:
        The end, positive also where nothing changes; no less than `LEAST`: rounding has no colour.

    Examples:
        >>> scale_end([-1.0, 1.0, float("nan")]), scale_end([0.0]) > 0
        (1.0, True)
    """
    sizes = np.abs(np.asarray(changes, dtype=float))
    known = sizes[~np.isnan(sizes)]
    return max(float(np.quantile(known, WITHIN)), LEAST) if len(known) else LEAST
