"""`tl-truncate toy`: worlds small enough to solve."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tl_truncate.cli.shared.app import Device, app, console, kind
from tl_truncate.weights.files import replacing

toy = typer.Typer(no_args_is_help=True, help="Worlds small enough to solve.")
app.add_typer(toy, name="toy")

Out = Annotated[Path, typer.Option(help="The folder to write to.")]
Resume = Annotated[bool, typer.Option(help="Go on with the run in the folder.")]
Seed = Annotated[int, typer.Option(help="Of weights and data.")]


@toy.command("recall")
@kind
def recall_command(
    out: Out,
    preset: Annotated[
        str, typer.Option(help="`small` (a minute) or `official` (wants a GPU).")
    ] = "small",
    seed: Seed = 0,
    alpha: Annotated[float, typer.Option(help="Probability of the noise token.")] = 0.5,
    loss: Annotated[str, typer.Option(help="`triggers` or `everywhere`.")] = "triggers",
    steps: Annotated[int | None, typer.Option(help="By default the preset's.")] = None,
    resume: Resume = False,
    device: Device = None,
) -> None:
    """Trains a two-layer transformer on noisy in-context recall, with the probes of the paper.

    Example: `tl-truncate toy recall --out runs/recall`

    Writes checkpoints, history.csv and recall.png.
    """
    from tl_truncate.plots import recall, save
    from tl_truncate.toys import RecallConfig, train_recall

    if preset not in ("small", "official"):
        raise ValueError(f"--preset must be small or official, got {preset!r}.")
    changes: dict[str, Any] = dict(seed=seed, alpha=alpha, loss=loss)
    config = getattr(RecallConfig, preset)(**changes | ({} if steps is None else {"steps": steps}))
    run = train_recall(config, run_dir=out / "run", resume=resume, device=device)
    with replacing(out / "history.csv") as path:
        run.history.to_csv(path, index=False)
    save(recall(run), out / "recall.png")
    console.print(str(run), markup=False)
    console.print(f"Written: {out}/run, history.csv, recall.png")


@toy.command("memory")
@kind
def memory_command(out: Out) -> None:
    """Which end of an associative memory's spectrum holds the noise, by size, noise and time.

    Example: `tl-truncate toy memory --out runs/memory`
    """
    from tl_truncate.plots import phases, save
    from tl_truncate.toys import memory_phases

    found = memory_phases()
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "phases.csv") as path:
        found.to_csv(path, index=False)
    save(phases(found), out / "phases.png")
    console.print(f"Written: {out}/phases.csv, phases.png")


@toy.command("gradients")
@kind
def gradients_command(
    out: Out,
    length: Annotated[list[int] | None, typer.Option(help="Positions; may be repeated.")] = None,
    alpha: Annotated[list[float] | None, typer.Option(help="Noise; may be repeated.")] = None,
    n: Annotated[int, typer.Option(help="Sequences for each length and alpha.")] = 4096,
    seed: Seed = 0,
) -> None:
    """Signal-to-noise of the first gradients, and the margin after one step, predicted and measured.

    Example: `tl-truncate toy gradients --length 64 --length 256 --out runs/gradients`
    """
    from tl_truncate.plots import gradient_noise as draw
    from tl_truncate.plots import save
    from tl_truncate.toys import BigramTable, RecallData, gradient_noise, one_step_margins

    data = RecallData(BigramTable.english(), length=64)
    found = gradient_noise(data, lengths=length or [64, 256], alphas=alpha or [0.5], n=n, seed=seed)
    margins = one_step_margins(data, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    for name, frame in (("gradients.csv", found), ("margins.csv", margins)):
        with replacing(out / name) as path:
            frame.to_csv(path, index=False)
    save(draw(found, margins), out / "gradients.png")
    table = Table("length", "alpha", "matrix", "direction", "batch", "mean", "SNR")
    for row in found.itertuples():
        figures = (f"{row.mean:.4f}", f"{row.snr:.2f} ± {row.snr_se:.2f}")
        table.add_row(
            str(row.length), f"{row.alpha:g}", row.matrix, row.direction, str(row.batch_size), *figures
        )
    console.print(table)
    console.print(f"Written: {out}/gradients.csv, margins.csv, gradients.png")


@toy.command("nano-pythia")
@kind
def nano_command(out: Out, seed: Seed = 0, resume: Resume = False, device: Device = None) -> None:
    """Trains a GPT-NeoX on a generated English; its steps lie in folders as Pythia's do.

    Example: `tl-truncate toy nano-pythia --out runs/nano`, then
    `tl-truncate dynamics --model runs/nano --task ioi --out runs/nano-ioi`
    """
    from tl_truncate.toys import NanoConfig, nano_pythia

    run = nano_pythia(out, NanoConfig(seed=seed), resume=resume, device=device)
    console.print(f"Written: {out}/step" + ", step".join(map(str, run.checkpoints)))
