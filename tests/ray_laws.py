"""A sweep that workers of Ray share, what it must be (that of one process), and what is around its tests."""

import os

import pandas as pd
import pytest
from documents import ROOT

#: Cuts that share passes, draws of a control, and one that goes by itself.
SWEEP = dict(
    sites=["blocks.0.mlp.W_out", "blocks.1.mlp.W_in", "blocks.2.mlp.W_out"],
    keeps=[0.0, 0.2, 0.5],
    controls=["random_subspace"],
    draws=2,
    prepend_bos=False,
    tokens_in_flight=64,
    progress=False,
)


def require_same(found, wanted):
    """Bit for bit, in the table and for each prompt."""
    pd.testing.assert_frame_equal(found.frame, wanted.frame, check_exact=True)
    assert found.grid == wanted.grid
    assert [each.outcomes for each in found.settings] == [each.outcomes for each in wanted.settings]
    pd.testing.assert_frame_equal(found.baseline.frame, wanted.baseline.frame, check_exact=True)


def surround(patch: pytest.MonkeyPatch) -> None:
    """Ray's processes find these tests' modules, and write no token into the home folder."""
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    patch.setenv("RAY_AUTH_MODE", "disabled")
    patch.delenv("RAY_ADDRESS", raising=False)
