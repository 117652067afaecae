"""`tl-truncate dynamics`: a task over training."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich import box
from rich.table import Table

from tl_truncate.checkpoints import checkpoint_steps, require_checkpoints
from tl_truncate.cli.shared.app import (
    AsJson,
    BackendName,
    Device,
    Dtype,
    app,
    console,
    escape,
    kind,
    load,
)
from tl_truncate.cli.shared.options import BatchSize, Bos, Prompts, Seed
from tl_truncate.cli.shared.parse import parse_cut
from tl_truncate.cli.shared.tasks import check_task_name, make_task
from tl_truncate.corpora.texts import manual_texts
from tl_truncate.decompose.parts import Method
from tl_truncate.experiments.training.dynamics import dynamics
from tl_truncate.experiments.training.parts_over_training import Parts
from tl_truncate.experiments.training.result import Dynamics
from tl_truncate.models import Backend
from tl_truncate.surgery.controls import controls_of
from tl_truncate.surgery.cut import Cuts


@app.command("dynamics")
@kind
def dynamics_command(
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="A Pythia model, `nano-pythia`, or a folder with step0, ..."),
    ],
    out: Annotated[Path, typer.Option(help="The run folder.")],
    steps: Annotated[
        str,
        typer.Option(help="Training steps; `...` between two stands for all published ones between."),
    ] = "all",
    task: Annotated[str, typer.Option(help="A name such as `ioi`, or a JSON file.")] = "ioi",
    cut: Annotated[
        list[str] | None,
        typer.Option(help="SITE=KEEP, such as `blocks.3.mlp.W_in=0.1`; may be repeated."),
    ] = None,
    cuts: Annotated[Path | None, typer.Option(help="A JSON file written by Cuts.save.")] = None,
    controls: Annotated[
        bool, typer.Option(help="Score a random subspace of each cut's rank too.")
    ] = False,
    parts: Annotated[
        str | None,
        typer.Option(
            help="Divide MLP outputs at each step: token_mean, own_path, context_ablation, spectral."
        ),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="For token_mean: passages, separated by empty lines; Python's manual by default."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder.")] = False,
    n: Prompts = None,
    seed: Seed = 0,
    prepend_bos: Bos = None,
    batch_size: BatchSize = 32,
    backend: BackendName = "bridge",
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Scores a task at each training step, uncut and with all the cuts together.

    Example: `tl-truncate dynamics --model EleutherAI/pythia-1b --steps 0,1,2,...,143000 --task ioi
    --out runs/pythia-1b`

    Writes the run folder with table.csv and dynamics.png in it. One model is in memory at a time.
    """
    check_task_name(task)
    chosen = Cuts([parse_cut(text) for text in cut or []], Cuts.load(cuts) if cuts else [])
    named: dict[str, Any] = {"cut": chosen} if chosen else {}
    if chosen and controls:
        placebos = controls_of(chosen, seed=seed)
        if "RandomSubspace" not in placebos:
            raise ValueError(f"--controls must have a random counterpart of each cut, got {chosen!r}.")
        named["random subspace"] = placebos["RandomSubspace"]
    divided = _parts(parts, corpus)
    checkpoints = read_steps(steps, model)
    options: dict[str, Any] = dict(backend=cast(Backend, backend), dtype=dtype, device=device)
    at_step = partial(_load, model, options)
    # The last checkpoint's tokenizer is that of all.
    prompts = make_task(task, n, seed, at_step(checkpoints[-1]))
    history = dynamics(
        at_step,
        checkpoints,
        prompts,
        named,
        parts=divided,
        name=model,
        run_dir=out / "run",
        resume=resume,
        prepend_bos=prepend_bos,
        batch_size=batch_size,
        seed=seed,
    )
    from tl_truncate.plots import dynamics as draw
    from tl_truncate.plots import save
    from tl_truncate.weights.files import replacing

    with replacing(out / "table.csv") as path:
        history.frame.to_csv(path, index=False)
    save(draw(history), out / "dynamics.png")
    if divided is not None:
        from tl_truncate.plots import parts_over_training

        with replacing(out / "parts.csv") as path:
            history.parts_frame.to_csv(path, index=False)
        save(parts_over_training(history), out / "parts.png")
    if as_json:
        typer.echo(json.dumps(history.frame.to_dict(orient="records"), indent=2))
        return
    console.print(_table(history))
    console.print(f"Written: {out}/run, table.csv, dynamics.png")


def _parts(method: str | None, corpus: Path | None) -> Parts | None:
    if method is None:
        if corpus is not None:
            raise ValueError("--corpus must come with --parts token_mean, got no --parts.")
        return None
    if method != "token_mean":
        return Parts(method=cast(Method, method))
    if corpus is None:
        return Parts(manual_texts(5_000), max_tokens=256)
    passages = [" ".join(each.split()) for each in corpus.read_text("utf-8").split("\n\n")]
    return Parts([each for each in passages if each], max_tokens=256)


def _load(name: str, options: dict[str, Any], step: int) -> Any:
    return load(name, checkpoint=step, **options)


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
    for step in history.checkpoints:
        for name in history.names:
            scores = history.scores(step, name)
            cells = (str(step), name, str(scores.p_global), str(scores.p_in_context))
            table.add_row(*map(escape, cells))
    return table
