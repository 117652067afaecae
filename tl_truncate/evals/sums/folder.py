"""Where the task is, for the harness' `--include_path`."""

from pathlib import Path

#: The folder of `tl_truncate_sums`.
SUMS = Path(__file__).parent
