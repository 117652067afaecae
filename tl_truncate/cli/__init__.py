"""The command line: `tl-truncate demo | evaluate | spectrum | sites | cache`."""

from tl_truncate.cli import cache, demo, evaluate, spectrum
from tl_truncate.cli.app import app

__all__ = ["app", "cache", "demo", "evaluate", "spectrum"]
