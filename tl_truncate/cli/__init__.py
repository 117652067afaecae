"""The command line: `tl-truncate demo | evaluate | sweep | search | attribute | ...`."""

from tl_truncate.cli import cache, demo, evaluate, search, spectrum, sweep
from tl_truncate.cli.app import app

__all__ = ["app", "cache", "demo", "evaluate", "search", "spectrum", "sweep"]
