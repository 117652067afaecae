"""`tl-truncate demo`: the main job on the real model."""

from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from tl_truncate.cli.layer_effects import LayerEffects, late_layer_effects
from tl_truncate.cli.shared.app import app, console, kind
from tl_truncate.cli.shared.changes import change_of
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.leaving import leave
from tl_truncate.cli.shared.model import SWEPT, ModelOptions, PassOptions
from tl_truncate.cli.shared.options import Figures, RunFolder
from tl_truncate.cli.shared.tasks import DrawnOptions
from tl_truncate.cli.shared.writing import check_figures, say_written, write_tables
from tl_truncate.cli.showcase import Showcase, fresh_prompts, make_showcase
from tl_truncate.report import write_report

_FOLDER = Path("demo")
_MODEL = ModelOptions(model="demo")
_PROMPTS = DrawnOptions(n=50)
_PICKED = (
    "These layers were picked by looking at the same prompts: read them as a picture, and test a layer "
    "on prompts that did not choose it. Random: the mean of a few random subspaces of the rank, and "
    "their standard deviation; with nothing kept there is nothing to draw.\n"
)


@app.command()
@kind
@grouped
def demo(
    *,
    out: RunFolder = _FOLDER,
    source: ModelOptions = _MODEL,
    prompts: DrawnOptions = _PROMPTS,
    passes: PassOptions = SWEPT,
    figures: Figures = True,
) -> None:
    """Shows a cut that is worth it, and what the model says without the MLPs of its last third.

    Example: `tl-truncate demo --out demo`
    """
    check_figures(figures, "plots", "report")  # before minutes of work, not after
    model, options = source.load(), passes.to_arguments()
    first = _showcase(model, source.model, prompts, options)
    effects = late_layer_effects(
        model, n=prompts.n, seed=prompts.seed, prepend_bos=prompts.prepend_bos, **options
    )
    for name, scores in effects.baselines.items():
        console.print(f"[bold]uncut[/] {escape(str(scores))}")
        console.print(_effects_table(effects, name))
        console.print(_verdict(effects, name), markup=False)
    console.print(_PICKED, markup=False)
    record = {name: scores.to_json() for name, scores in effects.baselines.items()}
    if first is not None:
        console.print(f"{first}\n", markup=False)
        record["showcase"] = first.scores.to_json()
    written = write_tables(out, {"effects": effects.frame}, record)
    if figures:
        written += _save_pictures(effects, first, out)
    say_written(out, written)
    leave(out / "report.html" if figures else None, source.model)


def _showcase(model: Any, name: str, prompts: DrawnOptions, options: dict[str, Any]) -> Showcase | None:
    """The cut that was found on the demo model, which no other has."""
    if name != "demo":
        return None
    task = fresh_prompts(model, n=prompts.n or 50, seed=prompts.seed + 1)
    return make_showcase(model, task, draws=4, prepend_bos=prompts.prepend_bos, **options)


def _save_pictures(effects: LayerEffects, first: Showcase | None, out: Path) -> list[str]:
    """The files' names, the one to look at first in front."""
    from tl_truncate.plots import layer_effects, save

    names = ["effects.png", write_report(effects.result, out / "report.html").name]
    save(layer_effects(effects.frame, effects.baselines), out / "effects.png")
    if first is not None:
        save(first.draw(), out / "showcase.png")
        names.insert(0, "showcase.png")
    return names


def _effects_table(effects: LayerEffects, task: str) -> Table:
    title = f"{task}: change when one W_out is cut, 95% interval"
    # Without padding two intervals and their controls fit into 80 columns.
    table = Table(title=escape(title), box=box.SIMPLE_HEAD, padding=0)
    for column in ("layer", "kept", "p(in-context)", "random", "p(global)", "random "):
        table.add_column(column, justify="right", no_wrap=True)
    frame = effects.frame[effects.frame["task"] == task]
    controls = {(row.layer, row.keep): row for row in frame.itertuples() if row.kind == "RandomSubspace"}
    for row in frame[frame["kind"] == "Cut"].itertuples():
        control = controls.get((row.layer, row.keep))
        table.add_row(
            str(row.layer),
            f"{float(row.keep):.0%}",
            change_of(row, "p_in_context"),
            _control(control, "p_in_context"),
            change_of(row, "p_global"),
            _control(control, "p_global"),
        )
    return table


def _control(row: Any, metric: str) -> str:
    """The mean change over a control's draws and its standard deviation, in eight columns."""
    if row is None:
        return "none"
    change, spread = (getattr(row, f"{metric}_change{end}") for end in ("", "_spread"))
    return f"{change:+.2f}±{spread:.2f}".replace("0.", ".")


def _verdict(effects: LayerEffects, task: str) -> str:
    helped, against = effects.helped(task), effects.reversed(task)
    rows, base = effects.rows(task), effects.baselines[task]
    extremes = [
        extreme("rise", "p(in-context)", rows["p_in_context"], float(base.p_in_context)),
        extreme("fall", "p(global)", rows["p_global"], float(base.p_global)),
    ]
    return (
        f"Without its MLP weight, the in-context answer gains and the global one loses at "
        f"{_layers(helped)}; the global answer gains at {_layers(against)}.\n"
        f"{' '.join(extremes)}\n"
    )


def _layers(found: list[int]) -> str:
    """Layers in words.

    Examples:
        >>> _layers([27, 28]), _layers([27]), _layers([])
        ('layers 27, 28', 'layer 27', 'no layer')
    """
    named = ", ".join(map(str, found))
    return f"layer{'s' if len(found) > 1 else ''} {named}" if found else "no layer"


def extreme(way: Literal["rise", "fall"], name: str, found: pd.Series, uncut: float) -> str:
    """The layer without which a probability rises or falls most; that there is none, if there is none.

    Examples:
        >>> extreme("fall", "p(global)", pd.Series({27: 0.05, 28: 0.01}), 0.1)
        'Largest fall of p(global): layer 28, 0.100 to 0.010 (10 times less).'
        >>> extreme("rise", "p(global)", pd.Series({27: 0.05, 28: 0.01}), 0.1)
        'No layer makes p(global) rise.'
    """
    layer = found.idxmax() if way == "rise" else found.idxmin()
    value = float(found[layer])
    if value <= uncut if way == "rise" else value >= uncut:
        return f"No layer makes {name} {way}."
    times = f" ({uncut / value:.0f} times less)" if way == "fall" and uncut >= 2 * value > 0 else ""
    return f"Largest {way} of {name}: layer {layer}, {uncut:.3f} to {value:.3f}{times}."
