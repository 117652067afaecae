"""Cuts on lm-evaluation-harness' tasks, uncut and cut on the same samples.

The harness (the extra `evals`) is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from tl_truncate.checks import require_extra
from tl_truncate.evals.paired import benchmark
from tl_truncate.evals.result import Benchmarks
from tl_truncate.evals.sums.folder import SUMS

if TYPE_CHECKING:
    from tl_truncate.evals.truncated_lm import TruncatedLM

__all__ = ["SUMS", "Benchmarks", "TruncatedLM", "benchmark"]


def __getattr__(name: str) -> Any:
    """The model class, which is one of the harness'.

    Raises:
        AttributeError: if there is no such name.
        ModuleNotFoundError: if the harness is not installed.
    """
    if name != "TruncatedLM":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_extra("evals")
    from tl_truncate.evals.truncated_lm import TruncatedLM

    return TruncatedLM
