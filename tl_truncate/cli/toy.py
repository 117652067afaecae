"""`tl-truncate toy`: worlds small enough to solve."""

from typing import Annotated, Any

import typer
from rich.table import Table

from tl_truncate.cli.shared.app import app, console, kind
from tl_truncate.cli.shared.options import Device, Figures, Resume, RunFolder, Seed
from tl_truncate.cli.shared.writing import check_figures, say_written, write_tables

toy = typer.Typer(no_args_is_help=True, help="Worlds small enough to solve.")
app.add_typer(toy, name="toy")


@toy.command("recall")
@kind
def recall_command(
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
) -> None:
    """Trains a two-layer transformer on noisy in-context recall, with the probes of the paper.

    Example: `tl-truncate toy recall --out runs/recall`

    Writes checkpoints, history.csv and recall.png.
    """
    check_figures(figures, "plots")
    from tl_truncate.plots import recall, save
    from tl_truncate.toys import RecallConfig, train_recall

    if preset not in ("small", "official"):
        raise ValueError(f"--preset must be small or official, got {preset!r}.")
    changes: dict[str, Any] = dict(seed=seed, alpha=alpha, loss=loss)
    config = getattr(RecallConfig, preset)(**changes | ({} if steps is None else {"steps": steps}))
    run = train_recall(config, run_dir=out / "run", resume=resume, device=device)
    written = write_tables(out, {"history": run.history})
    if figures:
        save(recall(run), out / "recall.png")
        written.append("recall.png")
    console.print(str(run), markup=False)
    say_written(out, ["run", *written])


@toy.command("memory")
@kind
def memory_command(out: RunFolder, figures: Figures = True) -> None:
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
    say_written(out, written)


@toy.command("gradients")
@kind
def gradients_command(
    out: RunFolder,
    length: Annotated[list[int] | None, typer.Option(help="Positions; may be repeated.")] = None,
    alpha: Annotated[list[float] | None, typer.Option(help="Noise; may be repeated.")] = None,
    n: Annotated[int, typer.Option(help="Sequences for each length and alpha.")] = 4096,
    seed: Seed = 0,
    figures: Figures = True,
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
    table = Table("length", "alpha", "matrix", "direction", "batch", "mean", "SNR")
    for row in found.itertuples():
        measured = (f"{row.mean:.4f}", f"{row.snr:.2f} ± {row.snr_se:.2f}")
        table.add_row(
            str(row.length), f"{row.alpha:g}", row.matrix, row.direction, str(row.batch_size), *measured
        )
    console.print(table)
    say_written(out, written)


@toy.command("nano-pythia")
@kind
def nano_command(out: RunFolder, seed: Seed = 0, resume: Resume = False, device: Device = None) -> None:
    """Trains a GPT-NeoX on a generated English; its steps lie in folders as Pythia's do.

    Example: `tl-truncate toy nano-pythia --out runs/nano`, then
    `tl-truncate dynamics --model runs/nano --task ioi --out runs/nano-ioi`
    """
    from tl_truncate.toys import NanoConfig, nano_pythia

    run = nano_pythia(out, NanoConfig(seed=seed), resume=resume, device=device)
    say_written(out, [f"step{step}" for step in run.checkpoints])
