"""The command line: `tl-truncate demo | explore | evaluate | sweep | search | export | report | ...`."""

from tl_truncate.cli import (
    demo,
    dynamics,
    evaluate,
    learn,
    search,
    side_effects,
    sweep,
    toy,
)
from tl_truncate.cli.elsewhere import export, lm_eval
from tl_truncate.cli.inside import attribute, decompose, spectrum
from tl_truncate.cli.machines import cache, merge, plan
from tl_truncate.cli.pages import explore, plot, report
from tl_truncate.cli.shared.app import app

__all__ = [
    "app",
    "attribute",
    "cache",
    "decompose",
    "demo",
    "dynamics",
    "evaluate",
    "explore",
    "export",
    "learn",
    "lm_eval",
    "merge",
    "plan",
    "plot",
    "report",
    "search",
    "side_effects",
    "spectrum",
    "sweep",
    "toy",
]
