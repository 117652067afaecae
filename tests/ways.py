"""Each way to a weight, for tests of what is refused."""

import pytest

import tl_truncate as tlt

SITE = "blocks.1.mlp.W_out"
TASK = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"], global_=" the")


def refused(model, wording: str) -> None:
    """Each way to the weight is closed, before any pass."""
    ways = [
        lambda: tlt.spectrum(model, SITE),
        lambda: tlt.truncation_hooks(model, tlt.Cut(SITE, 0.1)),
        lambda: tlt.truncated(model, tlt.Cut(SITE, 0.1)).__enter__(),
        lambda: tlt.attribute(model, TASK, sites=[SITE]),
        lambda: tlt.sweep(model, TASK, sites=[SITE], keeps=[0.1]),
    ]
    for way in ways:
        with pytest.raises(ValueError, match=wording):
            way()
