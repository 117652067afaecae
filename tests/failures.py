"""Each failure as it happens, in a file: a run on a lent card may end before it can tell."""

import os
from pathlib import Path

import pytest

#: Lines of a traceback that say why.
_LAST = 12


class Failures:
    """Appends the name of each test that fails, and the end of its traceback, to `failures.txt`.

    Args:
        folder: for the file.
    """

    def __init__(self, folder: str) -> None:
        self._file = Path(folder) / "failures.txt"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of one test, or of its fixtures."""
        if report.failed:
            why = report.longreprtext.splitlines()[-_LAST:]
            with self._file.open("a", encoding="utf-8") as file:
                file.write("\n".join([f"== {report.when} {report.nodeid}", *why, ""]))


def keep(config: pytest.Config) -> None:
    """Keeps them in the folder `$OUT` where there is one, once for all workers."""
    if os.environ.get("OUT") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failures(os.environ["OUT"]))
