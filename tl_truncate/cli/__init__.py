"""The command line: `tl-truncate demo | evaluate | sweep | search | dynamics | toy | report | ...`."""

from tl_truncate.cli import (
    cache,
    decompose,
    demo,
    dynamics,
    evaluate,
    report,
    search,
    spectrum,
    sweep,
    toy,
)
from tl_truncate.cli.app import app

__all__ = [
    "app",
    "cache",
    "decompose",
    "demo",
    "dynamics",
    "evaluate",
    "report",
    "search",
    "spectrum",
    "sweep",
    "toy",
]
