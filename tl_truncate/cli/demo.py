"""`tl-truncate demo`: the main job on the real model."""

from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from tl_truncate.cli.layer_effects import LayerEffects, late_layer_effects
from tl_truncate.cli.shared.app import app, console, kind
from tl_truncate.cli.shared.changes import change_of
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import SWEPT, ModelOptions, PassOptions
from tl_truncate.cli.shared.options import Figures, RunFolder
from tl_truncate.cli.shared.tasks import DrawnOptions
from tl_truncate.cli.shared.writing import check_figures, say_written, write_tables
from tl_truncate.report import write_report

_FOLDER = Path("demo")
_MODEL = ModelOptions(model="demo")
_PROMPTS = DrawnOptions(n=50)


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
    """Cuts the MLPs of the last third of the layers, and shows what the model says then.

    Example: `tl-truncate demo --out demo`
    """
    check_figures(figures, "plots", "report")  # before minutes of work, not after
    effects = late_layer_effects(
        source.load(),
        n=prompts.n,
        seed=prompts.seed,
        prepend_bos=prompts.prepend_bos,
        **passes.to_arguments(),
    )
    for name, scores in effects.baselines.items():
        console.print(f"[bold]uncut[/] {escape(str(scores))}")
        console.print(_effects_table(effects, name))
        console.print(_verdict(effects, name), markup=False)
    record = {name: scores.to_json() for name, scores in effects.baselines.items()}
    written = write_tables(out, {"effects": effects.frame}, record)
    if figures:
        _save_picture(effects, out / "effects.png")
        page = write_report(effects.result, out / "report.html")
        written += ["effects.png", f"{page.name}: open it in a browser"]
    say_written(out, written)


def _save_picture(effects: LayerEffects, path: Path) -> None:
    from tl_truncate.plots import layer_effects, save

    save(layer_effects(effects.frame, effects.baselines), path)


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
    rows = effects.rows(task)
    base = effects.baselines[task]
    rises = rows["p_in_context_change"].idxmax()
    falls = rows["p_global"].idxmin()
    ratio = float(base.p_global) / rows.loc[falls, "p_global"]
    return (
        f"Without its MLP weight, the in-context answer gains and the global one loses at layers "
        f"{helped or 'none'}; the global answer gains at layers {against or 'none'}.\n"
        f"Largest rise of p(in-context): layer {rises}, "
        f"{float(base.p_in_context):.3f} to {rows.loc[rises, 'p_in_context']:.3f}. "
        f"Largest fall of p(global): layer {falls}, {float(base.p_global):.3f} to "
        f"{rows.loc[falls, 'p_global']:.4f} ({ratio:.0f} times less).\n"
        "The layer was picked by looking at these same prompts: read it as a picture, and test a "
        "layer on prompts that did not choose it. Random: the mean of a few random subspaces of the "
        "rank, and their standard deviation; with nothing kept there is nothing to draw.\n"
    )
