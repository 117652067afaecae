"""The pictures of "Is it real?": `python benchmarks/is_it_real.py [--out docs]`.

Controls are those of two real cuts of the demo model, on prompts that chose neither. Many looks and the
best of many are simulated, since there the truth is known. Costs are read from the table of
docs/decomposition.md, so that page and picture agree.
"""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import tl_truncate as tlt
from tl_truncate import plots
from tl_truncate.plots.shared.style import COLOURS
from tl_truncate.statistics import Estimate, estimate_mean, q_values
from tl_truncate.weights.spoken import said_keep, said_site

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
#: Readable beside white and beside black.
GROUND, GREY, INK = "#f6f6f3", "#8b8b86", "#2b2b29"
REAL, OTHER = COLOURS[3], COLOURS[0]
CUTS = {
    f"{said_site(cut.site)}, {said_keep(cut.keep)}": cut
    for cut in (tlt.Cut("blocks.23.mlp.W_gate", keep=0.5), tlt.Cut("blocks.27.mlp.W_out", keep=0.1))
}
PROMPTS = 50
#: Of the changes of p from prompt to prompt, as they are on the demo model.
SPREAD = 0.15


def panel(title: str, *, height: float = 2.6) -> tuple["Figure", "Axes"]:
    """An empty figure of the page's width, with its message as the title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), dpi=150, layout="constrained", facecolor=GROUND)
    axis = figure.add_subplot(facecolor=GROUND)
    axis.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8, colors=INK)
    return figure, axis


def told(axis: "Axes", x: float, y: float, text: str, *, colour: str = INK, **options: object) -> None:
    """A label at its data, instead of a legend."""
    axis.annotate(
        text, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8, color=colour, **options
    )


def controls(changes: dict[str, tuple[Estimate, list[float]]]) -> "Figure":
    """Each cut with its interval, and the draws of its control.

    Args:
        changes: by the cut's name, its change and those of random subspaces of the same rank.
    """
    figure, axis = panel("Layer 23: the cut does it. Layer 27: any cut does.", height=2.2)
    for place, (own, drawn) in enumerate(changes.values()):
        axis.plot(drawn, [place + 0.14] * len(drawn), "|", color=OTHER, markersize=11)
        axis.plot([own.low, own.high], [place - 0.14] * 2, color=REAL, linewidth=2)
        axis.plot(own, place - 0.14, "o", color=REAL, markersize=6)
    (own, drawn), *_ = changes.values()
    axis.text(own, -0.32, "the cut, 95% interval", fontsize=8, color=REAL, ha="center")
    axis.text(np.mean(drawn), 0.42, "random halves", fontsize=8, color=OTHER, ha="center")
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.set_yticks(range(len(changes)), list(changes), fontsize=8)
    axis.set_ylim(len(changes) - 0.4, -0.6)
    axis.set_xlabel("change of p(name)", fontsize=8, color=INK)
    return figure


def measured(n: int, draws: int) -> dict[str, tuple[Estimate, list[float]]]:
    """The changes of both cuts and of their controls on the demo model."""
    model = tlt.load_model("demo")
    task = tlt.tasks.ioi(n=n, seed=7)
    seeds = range(draws)
    random = [
        tlt.RandomSubspace(cut.site, cut.keep, seed=seed) for cut in CUTS.values() for seed in seeds
    ]
    result = tlt.sweep(model, task, sites=[], cuts=[*CUTS.values(), *random], draws=1)
    changes = [result.scores_of(cut).change("p_in_context") for cut in (*CUTS.values(), *random)]
    return {
        name: (
            changes[place],
            [float(each) for each in changes[len(CUTS) + place * draws :][:draws]],
        )
        for place, name in enumerate(CUTS)
    }


def nothing(settings: int, random: np.random.Generator) -> np.ndarray:
    """Changes of settings that do nothing, one row each: the means over prompts differ by luck alone."""
    return random.normal(0, SPREAD, (settings, PROMPTS))


def looks(settings: int = 200, seed: int = 0) -> tuple["Figure", int, int]:
    """Cuts that do nothing, with intervals: some look clear. With how many do, by interval and by q."""
    found = [estimate_mean(row) for row in nothing(settings, np.random.default_rng(seed))]
    found.sort()
    clear = [each.low > 0 or each.high < 0 for each in found]
    by_q = int((q_values([each.p for each in found]) < 0.05).sum())
    figure, axis = panel(f"{settings} cuts that do nothing: {sum(clear)} look clear, {by_q} by q")
    for place, (each, seen) in enumerate(zip(found, clear, strict=True)):
        colour = OTHER if seen else GREY
        axis.plot([place] * 2, [each.low, each.high], color=colour, linewidth=1.6 if seen else 0.7)
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.set_xticks([])
    axis.set_xlabel("cuts, sorted by what was measured", fontsize=8, color=INK)
    axis.set_ylabel("change, 95% interval", fontsize=8, color=INK)
    return figure, sum(clear), by_q


def best_of_many(most: int = 630, repeats: int = 200, seed: int = 0) -> tuple["Figure", float, float]:
    """What the best of more and more useless cuts seems to be worth, and what it is on other prompts."""
    random = np.random.default_rng(seed)
    counts = [1, 2, 4, 8, 16, 32, 64, 128, 256, most]
    chosen, others = np.zeros((2, repeats, len(counts)))
    for row in range(repeats):
        seen = random.normal(0, SPREAD / PROMPTS**0.5, most)
        again = random.normal(0, SPREAD / PROMPTS**0.5, most)
        for column, count in enumerate(counts):
            best = seen[:count].argmax()
            chosen[row, column], others[row, column] = seen[best], again[best]
    own, fresh = chosen.mean(0), others.mean(0)
    figure, axis = panel(f"The best of {most} useless cuts looks like {own[-1]:+.2f}")
    axis.plot(counts, own, color=OTHER, marker="o", markersize=4)
    axis.plot(counts, fresh, color=REAL, marker="o", markersize=4)
    axis.fill_between(counts, fresh, own, color=OTHER, alpha=0.12)
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(each) for each in counts])
    axis.axhline(0, color=INK, linewidth=0.8)
    told(axis, 16, own[4], "on the prompts that chose it", colour=OTHER, ha="right")
    told(axis, 16, fresh[4], "on other prompts", colour=REAL)
    told(axis, 200, own[-1] / 2, "optimism", colour=OTHER)
    axis.set_xlabel("cuts that were looked at", fontsize=8, color=INK)
    axis.set_ylabel("change of the best", fontsize=8, color=INK)
    return figure, float(own[-1]), float(fresh[-1])


def documented_costs(task: str = "ioi") -> list[tuple[str, float, float]]:
    """Family, change of p(in-context) and perplexity of one task, as docs/decomposition.md has them."""
    text = (ROOT / "docs" / "decomposition.md").read_text()
    rows = text[text.index(f"| `{task}` |") :].splitlines()
    found = []
    for row in rows:
        first, family, _, _, change, perplexity = (cell.strip() for cell in row.strip("|").split("|"))
        if first not in ("", f"`{task}`"):
            break
        found.append((family, float(re.match(r"[+-][.\d]+", change)[0]), float(perplexity)))  # type: ignore[index]
    return found


def costs(found: list[tuple[str, float, float]], uncut: float = 33.9) -> "Figure":
    """Gain against what running text pays."""
    figure, axis = panel("Dropping gains what the targeted cut gains, at three times the price")
    for family, change, perplexity in found:
        axis.plot(perplexity, change, "o", color=REAL, markersize=7)
        told(axis, perplexity, change, family)
    axis.axvline(uncut, color=GREY, linewidth=0.8)
    axis.text(uncut, 0.143, " uncut", fontsize=8, color=INK, va="top")
    axis.set_xlim(33.5, 40)
    axis.set_ylim(0.07, 0.145)
    axis.set_xlabel("perplexity of running text", fontsize=8, color=INK)
    axis.set_ylabel("change of p(name)", fontsize=8, color=INK)
    return figure


def main() -> None:
    """Draws the four pictures and prints the numbers that the page names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "concepts")
    parser.add_argument("--n", type=int, default=40, help="prompts for the controls")
    parser.add_argument("--draws", type=int, default=8, help="of each control")
    options = parser.parse_args()
    figure, clear, by_q = looks()
    plots.save(figure, options.out / "real-looks.png")
    print(f"clear by their intervals: {clear} of 200; by q: {by_q}", flush=True)
    figure, own, fresh = best_of_many()
    plots.save(figure, options.out / "real-optimism.png")
    print(f"the best of 630: {own:+.3f} where it was chosen, {fresh:+.3f} on other prompts")
    plots.save(costs(documented_costs()), options.out / "real-cost.png")
    changes = measured(options.n, options.draws)
    plots.save(controls(changes), options.out / "real-controls.png")
    for name, (change, drawn) in changes.items():
        print(f"{name}: {change}; random {np.mean(drawn):+.3f}, spread {np.std(drawn, ddof=1):.3f}")


if __name__ == "__main__":
    main()
