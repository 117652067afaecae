"""How soon the live view follows a hand: from the slider's event to the bars, in a browser.

`python benchmarks/explore.py`; Chromium must be installed. For each layer the knob is dragged over its
whole way, as a hand would in a bit more than a second. The clock is the browser's: it starts with the
event, and stops in the frame in which the bars of this amount are drawn. Amounts that a newer one
overtook are never asked for.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import live
import shell

PROMPT = "When Matthew and Elizabeth went to the market, Elizabeth gave a book to"
GOAL = (100, 200)  # milliseconds: the median, and 95 of 100
PAUSE = 30  # milliseconds between two steps of a hand
REST = 150  # milliseconds without a step after which the page asks for control and lens
#: Keeps how long each drawn amount took; what is drawn at rest, with control and lens, is apart.
WATCH = """() => {
  document.querySelector(".tlx").addEventListener("tlx-drawn", ({detail}) =>
    window.took[detail.full ? "resting" : "moving"].push(detail.since));
}"""


def main() -> None:
    """Prints a line for each layer and one for all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 14, 29])
    parser.add_argument("--matrix", default="W_out")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--drags", type=int, default=3)
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    found = measure(given)
    for layer, (drawn, resting) in found.items():
        print(f"layer {layer}: {said(drawn)}; {len(drawn)} of {given.steps * given.drags} steps drawn")
        print(f"  with control and lens, the {REST} ms of rest included: {said(resting)}")
    everything = np.concatenate([drawn for drawn, _ in found.values()])
    middle, most = np.median(everything), np.quantile(everything, 0.95)
    verdict = "held" if middle <= GOAL[0] and most <= GOAL[1] else "missed"
    print(f"all: {said(everything)}; the goal of {GOAL[0]} and {GOAL[1]} ms is {verdict}")


def said(times: np.ndarray) -> str:
    """A line's figures."""
    return f"median {np.median(times):.0f} ms, 95% within {np.quantile(times, 0.95):.0f} ms"


def measure(given: argparse.Namespace) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Milliseconds of each layer: of amounts drawn while the knob moved, and at rest."""
    found = {}
    command = ["explore", "--model", given.model, "--prompt", given.prompt]
    with shell.served(command, seconds=1800) as (address, _), live.browsing() as browser:
        page = browser.new_page(viewport=dict(width=1280, height=800))
        page.goto(address)
        live.rest(page)
        page.evaluate(WATCH)
        for layer in given.layers:
            live.choose(page, f"blocks.{layer}.mlp.{given.matrix}")
            page.evaluate("window.took = {moving: [], resting: []}")
            for drag in range(given.drags):
                ends = (0.95, 0.02) if drag % 2 == 0 else (0.02, 0.95)
                live.act(page, lambda ends=ends: live.drag(page, *ends, steps=given.steps, pause=PAUSE))
            took = page.evaluate("window.took")
            found[layer] = np.array(took["moving"]), np.array(took["resting"])
    return found


if __name__ == "__main__":
    main()
