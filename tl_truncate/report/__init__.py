"""One self-contained HTML page from a run folder or a result."""

from tl_truncate.report.write import write_report

__all__ = ["write_report"]
