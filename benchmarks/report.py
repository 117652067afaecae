"""Every kind of page: its weight, and how long a browser takes until it answers.

`python benchmarks/report.py [RUN_FOLDER ...]`; without folders small results of each kind are made, and
a sweep of 90 sites at seven ranks whose scores are made up. Chromium must be installed. The time is from
asking for the file until the answer is there and everything can be opened; `charts` is the time from
opening the first folded chart until it is drawn. A page must have 6 MB at most, and answer within 1.5 s.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

import tl_truncate as tlt

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import architectures
import samples

TIMES = 5
#: Bytes and seconds that a page may take.
MOST_BYTES, MOST_SECONDS = 6e6, 1.5


def main() -> None:
    """Prints a line for each page, and fails if one is too heavy or too slow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*")
    runs = parser.parse_args().runs
    sources: Iterator[tuple[str, Any]] = ((run, run) for run in runs) if runs else of_each_kind()
    fine = True
    print(f"{'page':<18}{'MB':>6}{'written':>9}{'answers':>9}{'at most':>9}{'charts':>8}")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, source in sources:
            start = time.perf_counter()
            path = tlt.write_report(source, Path(folder) / "report.html")
            took, weight = time.perf_counter() - start, path.stat().st_size
            seconds, charts = open_times(browser, path)
            middle, most = statistics.median(seconds), max(seconds)
            drawn = "none" if charts is None else f"{charts:.2f} s"
            print(
                f"{name:<18}{weight / 1e6:>6.2f}{took:>7.1f} s{middle:>7.2f} s{most:>7.2f} s{drawn:>8}"
            )
            fine = fine and weight <= MOST_BYTES and middle <= MOST_SECONDS
        browser.close()
    sys.exit(0 if fine else 1)


def of_each_kind() -> Iterator[tuple[str, Any]]:
    """Results of each kind, of models that are small."""
    yield "large sweep", samples.large_sweep()
    yield "with controls", samples.large_sweep(controls=True)
    model, task = architectures.bridge("gpt2"), samples.pairs("Mary", "John", "Paris", "Rome")
    quiet: dict[str, Any] = dict(progress=False)
    cut, texts = tlt.Cut("blocks.1.mlp.W_in", 0.2), ["the store in Paris", "Mary gave a drink"]
    sweep = tlt.sweep(model, task, keeps=[0.1, 0.5], controls=["random_subspace"], **quiet)
    yield "sweep", sweep
    other = tlt.sweep(architectures.bridge("neox-parallel"), task, keeps=[0.1], **quiet)
    yield "two sweeps", [sweep, other]
    yield "search", tlt.search(model, task, keeps=[0.25, 0.5], splits=1, draws=2, texts=texts, **quiet)
    yield "scores", tlt.evaluate(model, task, cut, **quiet)
    yield "side effects", tlt.side_effects(model, cut, texts, **quiet)
    yield "screen", tlt.attribute(model, task, **quiet)
    yield "parts", tlt.part_attribution(model, task, method="own_path", **quiet)

    def load(step: int) -> Any:
        return architectures.randomise(architectures.bridge("neox-parallel"), step)

    yield "dynamics", tlt.dynamics(load, [0, 1, 8], task, {"a quarter": cut}, **quiet)
    config = tlt.toys.RecallConfig.small(d_model=16, steps=64, eval_size=4)
    yield "recall", tlt.toys.train_recall(config, **quiet)


def open_times(browser: Any, path: Path) -> tuple[list[float], float | None]:
    """Seconds until the page answers, each in a new context; and until its first chart is drawn."""
    found, charts = [], None
    for _ in range(TIMES):
        page = browser.new_context().new_page()
        start = time.perf_counter()
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("body[data-ready=yes]")
        page.locator("#answer .picture svg:visible").wait_for()
        found.append(time.perf_counter() - start)
    if page.locator("figure[data-chart]").count():
        start = time.perf_counter()
        page.evaluate("document.querySelector('figure[data-chart]').closest('details').open = true")
        page.wait_for_selector("body[data-charts]")
        charts = time.perf_counter() - start
    return found, charts


if __name__ == "__main__":
    main()
