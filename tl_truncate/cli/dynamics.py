"""`tl-truncate dynamics`: a task over training."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tl_truncate.checkpoints import checkpoint_steps, require_checkpoints
from tl_truncate.cli.shared.app import app, console, kind
from tl_truncate.cli.shared.cuts import CutOptions
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import LoadOptions, PassOptions
from tl_truncate.cli.shared.options import (
    AsJson,
    Corpus,
    Figures,
    Resume,
    RunFolder,
    TaskNames,
    WithControls,
)
from tl_truncate.cli.shared.tasks import PromptOptions, check_task_name
from tl_truncate.cli.shared.writing import check_figures, say_written, write_tables
from tl_truncate.corpora.passages import read_passages
from tl_truncate.corpora.texts import manual_texts
from tl_truncate.decompose.parts import Method
from tl_truncate.experiments.training.dynamics import dynamics
from tl_truncate.experiments.training.parts_over_training import Parts
from tl_truncate.experiments.training.result import Dynamics
from tl_truncate.runs.files import rows_of
from tl_truncate.statistics import shown_in
from tl_truncate.surgery.controls import FEW_DRAWS, controls_of
from tl_truncate.surgery.cut import Cuts, SiteCut


@app.command("dynamics")
@kind
@grouped
def dynamics_command(
    *,
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="A Pythia model, `nano-pythia`, or a folder with step0, ..."),
    ],
    out: RunFolder,
    steps: Annotated[
        str,
        typer.Option(help="Training steps; `...` between two stands for all published ones between."),
    ] = "all",
    task: TaskNames = None,
    cutting: CutOptions,
    controls: WithControls = False,
    parts: Annotated[
        str | None,
        typer.Option(
            help="Divide MLP outputs at each step: token_mean, own_path, context_ablation, spectral."
        ),
    ] = None,
    corpus: Corpus = None,
    resume: Resume = False,
    prompts: PromptOptions,
    passes: PassOptions,
    loading: LoadOptions,
    figures: Figures = True,
    as_json: AsJson = False,
) -> None:
    """Scores tasks at each training step, uncut and with all the cuts together.

    Example: `tl-truncate dynamics --model EleutherAI/pythia-1b --steps 0,1,2,...,143000 --task ioi
    --out runs/pythia-1b`

    Writes the run folder with table.csv and dynamics.png in it. One model is in memory at a time.
    --controls scores random subspaces of each cut's rank: the mean of a few draws.
    """
    check_figures(figures, "plots")
    names = [check_task_name(name) for name in task or ["ioi"]]
    cuts = cutting.read()
    divided = _parts(parts, corpus)
    checkpoints = read_steps(steps, model)
    at_step = partial(loading.load_step, model)
    last = at_step(checkpoints[-1])  # its tokenizer and its shapes are those of all
    asked, named = (
        [prompts.make(each, last) for each in names],
        _named(last, cuts, controls, prompts.seed),
    )
    del last
    history = dynamics(
        at_step,
        checkpoints,
        asked,
        named,
        parts=divided,
        name=model,
        run_dir=out / "run",
        resume=resume,
        prepend_bos=prompts.prepend_bos,
        seed=prompts.seed,
        **passes.to_arguments(),
    )
    written = _write(history, out, divided is not None, figures)
    if as_json:
        typer.echo(json.dumps(rows_of(history.frame), indent=2))
        return
    for each in history.tasks:
        console.print(_table(history.of(each.name)))
    say_written(out, ["run", *written])


def _named(model: Any, cuts: Cuts, controls: bool, seed: int) -> dict[str, Sequence[SiteCut]]:
    """The cuts by the name that they have in tables, and the draws of their control."""
    named: dict[str, Sequence[SiteCut]] = {"cut": cuts} if cuts else {}
    if cuts and controls:
        placebos = controls_of(model, cuts, seed=seed, draws=FEW_DRAWS)
        if "RandomSubspace" not in placebos:
            raise ValueError(
                "--controls must have a random counterpart of each cut that is not the cut itself, got "
                f"{cuts!r}."
            )
        for place, placebo in enumerate(placebos["RandomSubspace"], 1):
            named["random subspace" if place == 1 else f"random subspace #{place}"] = placebo
    return named


def _parts(method: str | None, corpus: Path | None) -> Parts | None:
    if method is None:
        if corpus is not None:
            raise ValueError("--corpus must come with --parts token_mean, got no --parts.")
        return None
    if method != "token_mean":
        return Parts(method=cast(Method, method))
    texts = manual_texts(5_000) if corpus is None else list(read_passages(corpus))
    return Parts(texts, max_tokens=256)


def _write(history: Dynamics, out: Path, divided: bool, figures: bool) -> list[str]:
    """Tables and pictures; the files' names."""
    tables = {"table": history.frame}
    if divided:
        tables["parts"] = history.parts_frame
    written = write_tables(out, tables)
    if not figures:
        return written
    from tl_truncate.plots import dynamics as draw
    from tl_truncate.plots import parts_over_training, save

    save(draw(history), out / "dynamics.png")
    written.append("dynamics.png")
    for place, task in enumerate(history.tasks if divided else ()):
        written.append(f"parts{'' if place == 0 else f'-{task.name}'}.png")
        save(parts_over_training(history.of(task.name)), out / written[-1])
    return written


def read_steps(text: str, model: str) -> list[int]:
    """Training steps from `0,1,2,...,143000`, or `all` that there are.

    Raises:
        ValueError: if the text reads otherwise, or `...` stands at an end.

    Examples:
        >>> read_steps("0,256,...,2000,143000", "pythia-70m")
        [0, 256, 512, 1000, 2000, 143000]
    """
    known = checkpoint_steps(model)
    if text == "all":
        return list(known)
    parts = [part.strip() for part in text.replace("…", "...").split(",")]
    found: list[int] = []
    for place, part in enumerate(parts):
        between = part == "..." and 0 < place < len(parts) - 1 and parts[place + 1].isdigit() and found
        if between:
            last = int(parts[place + 1])
            found += [step for step in known if found[-1] < step < last]
        elif part.isdigit():
            found.append(int(part))
        else:
            raise ValueError(f"--steps must read like 0,1,512 or 0,1,...,143000 or all, got {text!r}.")
    return require_checkpoints(model, found)


def _table(history: Dynamics) -> Table:
    table = Table(title=escape(f"{history.task.name}: {len(history.task)} prompts"), box=box.SIMPLE_HEAD)
    for column in ("step", "cut", "p(global)", "p(in-context)"):
        table.add_column(column, justify="left" if column == "cut" else "right", no_wrap=True)
    rows = history.frame.set_index(["step", "cut"])
    for step in history.checkpoints:
        for name in history.names_at(step):
            row = rows.loc[(step, name)]
            told = (shown_in(row, metric) for metric in ("p_global", "p_in_context"))
            table.add_row(*map(Text, (str(step), name, *told)))
    return table
