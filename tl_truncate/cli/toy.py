"""`tl-truncate toy`: worlds small enough to solve."""

from typing import Annotated, Any

import pandas as pd
import typer

from tl_truncate.checks import one_of
from tl_truncate.cli.shared.app import app, kind, say
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import check_device
from tl_truncate.cli.shared.options import Device, Figures, Resume, RunFolder, Seed
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.cli.shared.tables import Column, say_table
from tl_truncate.cli.shared.writing import check_figures, say_written, write_tables
from tl_truncate.runs.files import rows_of

toy = typer.Typer(no_args_is_help=True, help="Worlds small enough to solve.")
app.add_typer(toy, name="toy")


@toy.command("recall")
@kind
@grouped
def recall_command(
    *,
    out: RunFolder,
    preset: Annotated[
        str, typer.Option(help="`small` (a minute) or `official` (wants a GPU).")
    ] = "small",
    seed: Seed = 0,
    alpha: Annotated[float, typer.Option(help="Probability of the noise token.")] = 0.5,
    loss: Annotated[str, typer.Option(help="`triggers` or `everywhere`.")] = "triggers",
    steps: Annotated[int | None, typer.Option(help="By default the preset's.")] = None,
    resume: Resume = False,
    figures: Figures = True,
    device: Device = None,
    printed: PrintOptions,
) -> None:
    """Trains a two-layer transformer on noisy in-context recall, with the probes of the paper.

    Example: `tl-truncate toy recall --out runs/recall`

    Writes checkpoints, history.csv and recall.png.
    """
    check_figures(figures, "plots")
    from tl_truncate.plots import recall, save
    from tl_truncate.toys import RecallConfig, train_recall

    one_of("--preset", preset, ("small", "official"))
    check_device(device)
    changes: dict[str, Any] = dict(seed=seed, alpha=alpha, loss=loss)
    config = getattr(RecallConfig, preset)(**changes | ({} if steps is None else {"steps": steps}))
    run = train_recall(config, run_dir=out / "run", resume=resume, device=device)
    written = write_tables(out, {"history": run.history})
    if figures:
        save(recall(run), out / "recall.png")
        written.append("recall.png")
    if printed.print(rows_of(run.history), run.history):
        return
    say(str(run))
    say_written(out, ["run", *written])


@toy.command("memory")
@kind
@grouped
def memory_command(*, out: RunFolder, figures: Figures = True, printed: PrintOptions) -> None:
    """Which end of an associative memory's spectrum holds the noise, by size, noise and time.

    Example: `tl-truncate toy memory --out runs/memory`
    """
    check_figures(figures, "plots")
    from tl_truncate.plots import phases, save
    from tl_truncate.toys import memory_phases

    found = memory_phases()
    written = write_tables(out, {"phases": found})
    if figures:
        save(phases(found), out / "phases.png")
        written.append("phases.png")
    if printed.print(rows_of(found), found):
        return
    say_written(out, written)


@toy.command("gradients")
@kind
@grouped
def gradients_command(
    *,
    out: RunFolder,
    length: Annotated[list[int] | None, typer.Option(help="Positions; may be repeated.")] = None,
    alpha: Annotated[list[float] | None, typer.Option(help="Noise; may be repeated.")] = None,
    n: Annotated[int, typer.Option(help="Sequences for each length and alpha.")] = 4096,
    seed: Seed = 0,
    figures: Figures = True,
    printed: PrintOptions,
) -> None:
    """Signal-to-noise of the first gradients, and the margin after one step, predicted and measured.

    Example: `tl-truncate toy gradients --length 64 --length 256 --out runs/gradients`
    """
    check_figures(figures, "plots")
    from tl_truncate.plots import gradient_noise as draw
    from tl_truncate.plots import save
    from tl_truncate.toys import BigramTable, RecallData, gradient_noise, one_step_margins

    data = RecallData(BigramTable.english(), length=64)
    found = gradient_noise(data, lengths=length or [64, 256], alphas=alpha or [0.5], n=n, seed=seed)
    margins = one_step_margins(data, seed=seed)
    written = write_tables(out, dict(gradients=found, margins=margins))
    if figures:
        save(draw(found, margins), out / "gradients.png")
        written.append("gradients.png")
    if printed.print(rows_of(found), found):
        return
    rows = list(found.itertuples())
    say_table(
        [
            Column("length", [str(row.length) for row in rows]),
            Column("alpha", [f"{row.alpha:g}" for row in rows], drop=1),
            Column("matrix", [row.matrix for row in rows], left=True),
            Column("direction", [row.direction for row in rows], left=True),
            Column("batch", [str(row.batch_size) for row in rows]),
            Column("mean", [f"{row.mean:.4f}" for row in rows], drop=2),
            Column("SNR", [f"{row.snr:.2f} ± {row.snr_se:.2f}" for row in rows]),
        ]
    )
    say_written(out, written)


@toy.command("nano-pythia")
@kind
@grouped
def nano_command(
    *,
    out: RunFolder,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = None,
    printed: PrintOptions,
) -> None:
    """Trains a GPT-NeoX on a generated English; its steps lie in folders as Pythia's do.

    Example: `tl-truncate toy nano-pythia --out runs/nano`, then
    `tl-truncate dynamics --model runs/nano --task ioi --out runs/nano-ioi`
    """
    from tl_truncate.toys import NanoConfig, nano_pythia

    check_device(device)
    run = nano_pythia(out, NanoConfig(seed=seed), resume=resume, device=device)
    steps = pd.DataFrame([dict(step=step, folder=str(out / f"step{step}")) for step in run.checkpoints])
    if printed.print(rows_of(steps), steps):
        return
    say_written(out, [f"step{step}" for step in run.checkpoints])
