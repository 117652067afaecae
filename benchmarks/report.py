"""The report of a sweep of 90 sites at seven ranks: its size, and how long a browser takes.

`python benchmarks/report.py [RUN_FOLDER]`; without a folder the scores are made up. Chromium must be
installed. The time is from asking for the file until the charts and the table answer.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

import tl_truncate as tlt

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from samples import large_sweep

TIMES = 5


def main() -> None:
    """Prints both figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?")
    source = parser.parse_args().run or large_sweep()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = tlt.write_report(source, Path(folder) / "report.html")
        took = time.perf_counter() - start
        print(f"written in {took:.1f} s, {path.stat().st_size / 1e6:.2f} MB")
        seconds = open_times(path)
    middle, most = statistics.median(seconds), max(seconds)
    print(f"interactive after {middle:.2f} s (median of {TIMES}, {most:.2f} at most)")


def open_times(path: Path) -> list[float]:
    """Seconds until the page answers, each in a new context."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        found = []
        for _ in range(TIMES):
            page = browser.new_context().new_page()
            start = time.perf_counter()
            page.goto(path.resolve().as_uri())
            page.wait_for_selector("body[data-ready=yes]")
            found.append(time.perf_counter() - start)
        browser.close()
    return found


if __name__ == "__main__":
    main()
