"""`tl-truncate dynamics`: a task over training."""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from tl_truncate.checkpoints import checkpoint_steps, require_checkpoints
from tl_truncate.checks import one_of
from tl_truncate.cli.shared.app import app, errors, kind, say
from tl_truncate.cli.shared.cuts import CutOptions
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import LoadOptions, PassOptions
from tl_truncate.cli.shared.options import (
    CacheDir,
    Corpus,
    DeleteAfter,
    Figures,
    Resume,
    RunFolder,
    ShardText,
    TaskNames,
    WithControls,
)
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.cli.shared.quiet import without_bars
from tl_truncate.cli.shared.tables import Column, say_table
from tl_truncate.cli.shared.tasks import PromptOptions, check_task_name
from tl_truncate.cli.shared.workers import RayOptions
from tl_truncate.cli.shared.writing import check_figures, say_shard, say_written, write_tables
from tl_truncate.corpora.passages import read_passages
from tl_truncate.corpora.texts import manual_texts
from tl_truncate.decompose.parts import Method
from tl_truncate.experiments.scoring.metrics import PROBABILITIES, label_of, metrics_of
from tl_truncate.experiments.training.checkpoints.failing import UNREADABLE
from tl_truncate.experiments.training.dynamics import dynamics
from tl_truncate.experiments.training.parts_over_training import Parts
from tl_truncate.experiments.training.result import Dynamics
from tl_truncate.experiments.training.steps import steps_told
from tl_truncate.models import Checkpoints
from tl_truncate.runs.files import rows_of
from tl_truncate.runs.shards import as_pair, as_shard
from tl_truncate.runs.workers.ray import Ray
from tl_truncate.runs.workers.sending import placed
from tl_truncate.statistics import shown_in
from tl_truncate.surgery.controls import FEW_DRAWS, controls_of
from tl_truncate.surgery.cut import Cuts, SiteCut

DividedBy = Annotated[
    str | None,
    typer.Option(
        help="Divide MLP outputs at each step: token_mean, own_path, context_ablation, spectral."
    ),
]


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
    parts: DividedBy = None,
    corpus: Corpus = None,
    shard: ShardText = None,
    cache_dir: CacheDir = None,
    delete_after: DeleteAfter = False,
    ray: RayOptions,
    resume: Resume = False,
    prompts: PromptOptions,
    passes: PassOptions,
    loading: LoadOptions,
    figures: Figures = True,
    printed: PrintOptions,
) -> None:
    """Scores tasks at each training step, uncut and with all the cuts together.

    Example: `tl-truncate dynamics --model EleutherAI/pythia-1b --steps 0,1,2,...,143000 --task ioi
    --out runs/pythia-1b`

    Writes the run folder with table.csv and dynamics.png in it. One model is in memory at a time; the
    next one's files are fetched meanwhile. A checkpoint that cannot be read is passed over with a word.
    --controls scores random subspaces of each cut's rank: the mean of a few draws.
    """
    part = as_shard(shard)
    check_figures(figures and part is None, "plots")
    names = [check_task_name(name) for name in task or ["ioi"]]
    cuts = cutting.read()
    divided = _parts(parts, corpus)
    checkpoints, on = read_steps(steps, model), ray.read()
    run = loading.checkpoints(model, cache_dir=cache_dir, delete_after=delete_after)
    # So that stdout is the result.
    with contextlib.redirect_stdout(sys.stderr), without_bars(verbose=loading.verbose):
        first = _readable(run, checkpoints)  # its tokenizer and its shapes are those of all
        asked = [prompts.make(each, first) for each in names]
        named = _named(first, cuts, controls, prompts.seed)
        del first
        history = dynamics(
            _as_loaded(run, on),
            checkpoints,
            asked,
            named,
            parts=divided,
            name=model,
            run_dir=out / "run",
            shard=as_pair(part),
            on=on,
            resume=resume or part is not None,
            prepend_bos=prompts.prepend_bos,
            seed=prompts.seed,
            **passes.to_arguments(),
        )
    if part is not None and printed.for_people:
        say_shard(part, out, str(history).splitlines()[0].partition(": ")[2])
    else:
        say_dynamics(history, out if part is None else None, figures=figures, printed=printed)


def _as_loaded(run: Checkpoints, on: Ray | None) -> Checkpoints:
    """The checkpoints as they are loaded: a worker has its own GPU, and may be in another folder."""
    if on is None:
        return run
    cache = None if run.cache_dir is None else Path(run.cache_dir).expanduser().resolve()
    device = run.device or ("cuda" if on.gpus else "cpu")
    return replace(run, name=placed(run.name), cache_dir=cache, device=device)


def _readable(run: Checkpoints, steps: Sequence[int]) -> Any:
    """The model of the first step whose files can be read; what will be downloaded is said before.

    Raises:
        OSError: if there is none.
    """
    told = run.told(steps)
    if told is not None:
        errors.print(told, markup=False, soft_wrap=True)
    for step in steps[:-1]:
        with contextlib.suppress(*UNREADABLE):
            return run(step)
    return run(steps[-1])


def say_dynamics(history: Dynamics, out: Path | None, *, figures: bool, printed: PrintOptions) -> None:
    """Writes tables and pictures of a whole run, and says what is in them."""
    written = [] if out is None else _write(history, out, figures)
    if printed.print(rows_of(history.frame), history.frame):
        return
    for each in history.tasks:
        _say_steps(history.of(each.name))
    if history.missing:
        say(f"Missing: {steps_told(history.missing)}. --resume tries again.")
    if out is not None:
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
    one_of("--parts", method, get_args(Method))
    if method != "token_mean":
        return Parts(method=cast(Method, method))
    texts = manual_texts(5_000) if corpus is None else list(read_passages(corpus))
    return Parts(texts, max_tokens=256)


def _write(history: Dynamics, out: Path, figures: bool) -> list[str]:
    """Tables and pictures; the files' names."""
    divided = any(history.of(task.name).parts for task in history.tasks)
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
        ValueError: if the text reads otherwise, `...` stands at an end, or a range goes down.

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
            if last < found[-1]:
                raise ValueError(
                    f"A range of --steps must go up, from the earlier step to the later, got "
                    f"'{found[-1]},...,{last}'."
                )
            found += [step for step in known if found[-1] < step < last]
        elif part.isdigit():
            found.append(int(part))
        else:
            raise ValueError(f"--steps must read like 0,1,512 or 0,1,...,143000 or all, got {text!r}.")
    return require_checkpoints(model, found)


def _say_steps(history: Dynamics) -> None:
    rows = history.frame.set_index(["step", "cut"])
    shown = [(step, name) for step in history.checkpoints for name in history.names_at(step)]
    say_table(
        [
            Column("step", [str(step) for step, _ in shown]),
            Column("cut", [name for _, name in shown], left=True),
            *(
                Column(
                    label_of(metric, history.task.has_global).short,
                    [shown_in(rows.loc[each], metric) for each in shown],
                )
                for metric in metrics_of(history.task, tuple(reversed(PROBABILITIES)))
            ),
        ],
        title=f"{history.task.name}: {len(history.task)} prompts",
    )
