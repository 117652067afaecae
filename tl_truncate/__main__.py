"""`python -m tl_truncate` is `tl-truncate`."""

from tl_truncate.cli import app

app(prog_name="tl-truncate")
