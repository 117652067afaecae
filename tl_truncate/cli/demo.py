"""`tl-truncate demo`: the main job on the real model."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from tl_truncate.checks import require
from tl_truncate.cli.layer_effects import LayerEffects, late_layer_effects
from tl_truncate.cli.shared.app import ModelName, app, console, escape, kind, load
from tl_truncate.report import write_report
from tl_truncate.weights.files import replacing


@app.command()
@kind
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture, the table and the report.")] = Path(
        "demo"
    ),
    model: ModelName = "demo",
    n: Annotated[int, typer.Option(help="Prompts for each task.")] = 50,
    seed: Annotated[int, typer.Option(help="Of prompts, controls and bootstrap.")] = 0,
) -> None:
    """Cuts the MLPs of the last third of the layers, and shows what the model says then.

    Example: `tl-truncate demo --out demo`
    """
    for package, extra in (("matplotlib", "plots"), ("plotly", "report"), ("jinja2", "report")):
        require(package, extra=extra)  # before minutes of work, not after
    loaded = load(model)
    effects = late_layer_effects(loaded, n=n, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    for name, scores in effects.baselines.items():
        console.print(f"[bold]uncut[/] {escape(str(scores))}")
        console.print(_effects_table(effects, name))
        console.print(_verdict(effects, name))
    with replacing(out / "effects.csv") as path:
        effects.frame.to_csv(path, index=False)
    record = {name: scores.to_json() for name, scores in effects.baselines.items()}
    with replacing(out / "record.json") as path:
        path.write_text(json.dumps(record, indent=2) + "\n")
    _save_picture(effects, out / "effects.png")
    page = write_report(effects.result, out / "report.html")
    console.print(
        f"Written: {out}/effects.csv, record.json, effects.png, {page.name}: open it in a browser"
    )


def _save_picture(effects: LayerEffects, path: Path) -> None:
    from tl_truncate.plots import layer_effects

    with replacing(path) as temporary:
        layer_effects(effects.frame, effects.baselines).savefig(temporary, format="png")


def _effects_table(effects: LayerEffects, task: str) -> Table:
    table = Table(title=f"{task}: change when one W_out is cut, 95% interval", box=box.SIMPLE_HEAD)
    for column in ("layer", "kept", "p(in-context)", "random", "p(global)", "random "):
        table.add_column(column, justify="right", no_wrap=True)
    frame = effects.frame[effects.frame["task"] == task]
    controls = {(row.layer, row.keep): row for row in frame.itertuples() if row.kind == "RandomSubspace"}
    for row in frame[frame["kind"] == "Cut"].itertuples():
        control = controls.get((row.layer, row.keep))
        table.add_row(
            str(row.layer),
            f"{float(row.keep):.0%}",
            _interval(
                row.p_in_context_change, row.p_in_context_change_low, row.p_in_context_change_high
            ),
            "same" if control is None else _signed(control.p_in_context_change),
            _interval(row.p_global_change, row.p_global_change_low, row.p_global_change_high),
            "same" if control is None else _signed(control.p_global_change),
        )
    return table


def _signed(value: float) -> str:
    """A change of a probability in five characters: +.039."""
    return f"{value:+.3f}".replace("0.", ".", 1)


def _interval(value: float, low: float, high: float) -> str:
    style = "bold green" if low > 0 else "bold red" if high < 0 else "dim"
    return f"[{style}]{_signed(value)}[/] \\[{_signed(low)}, {_signed(high)}]"


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
        "layer on prompts that did not choose it. With nothing kept, a random subspace is the same "
        "cut.\n"
    ).replace("[", r"\[")
