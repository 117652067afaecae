"""The options of the commands, each defined once."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tl_truncate.weights.files import as_path

#: Of an option that is a path: the shell leaves `~` as it is in --out=~/runs.
PATH: dict[str, Any] = dict(parser=as_path, metavar="PATH")

# the model and how it is loaded
ModelName = Annotated[
    str, typer.Option("--model", "-m", help="`demo`, a hub name, `pythia-160m`, or a folder.")
]
BackendName = Annotated[str, typer.Option(help="`bridge`, or `hooked` on TransformerLens 3.")]
Checkpoint = Annotated[int | None, typer.Option(help="Training step of a Pythia model.")]
Dtype = Annotated[str, typer.Option(help="Of the weights, such as float32 or bfloat16.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show what libraries say: bars of loading, remarks, warnings.")
]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda.")]

# how much of it runs at once
BatchSize = Annotated[int, typer.Option(help="Most prompts or passages in a pass.")]
MaxMemory = Annotated[
    float | None, typer.Option(help="Most gigabytes beside the model; less shares a pass then.")
]

# what it is asked
TaskName = Annotated[
    str, typer.Option("--task", help="A name such as `ioi` or `facts`, or a JSON file.")
]
TaskNames = Annotated[
    list[str] | None,
    typer.Option(
        "--task", help="A name such as `ioi`, or a JSON file; may be repeated. By default ioi."
    ),
]
Prompts = Annotated[
    int | None,
    typer.Option(
        "--n", help="Prompts of a task; where no default is shown, 100, or all that there are."
    ),
]
_SHOTS = (
    "So many of the prompts, answered, in front of each of the others; of a sweep several, such as "
    "0,1,4,16, on the same prompts."
)
Shots = Annotated[int | None, typer.Option("--shots", help=_SHOTS)]
SeveralShots = Annotated[str | None, typer.Option("--shots", help=_SHOTS)]
Seed = Annotated[
    int, typer.Option(help="Of all that is drawn: prompts, demonstrations, splits, controls.")
]
Bos = Annotated[
    bool | None,
    typer.Option("--prepend-bos/--no-prepend-bos", help="By default as the model has it."),
]
Corpus = Annotated[
    Path | None,
    typer.Option(
        help="To fit token means on: a text file, empty lines between passages; by default Python's "
        "manual.",
        **PATH,
    ),
]

# what is cut
CutTexts = Annotated[
    list[str] | None,
    typer.Option("--cut", help="SITE=KEEP, such as `blocks.27.mlp.W_in=0.01`; may be repeated."),
]
CutFile = Annotated[
    Path | None, typer.Option("--cuts", help="A JSON file written by Cuts.save.", **PATH)
]
SiteNames = Annotated[
    list[str] | None, typer.Option("--site", help="Such as `blocks.3.mlp.W_in`; may be repeated.")
]
Matrices = Annotated[
    str,
    typer.Option(help="Without --site: which matrices, separated by commas, or `mlp` for all of it."),
]
Layers = Annotated[str | None, typer.Option(help="Layers such as `20-29` or `0,5,-1`; all by default.")]
Keeps = Annotated[
    list[str] | None, typer.Option("--keep", help="A rank, fraction or rule; may be repeated.")
]
WithControls = Annotated[bool, typer.Option(help="Score controls of the same ranks too.")]


def can_be_made(folder: Path | None) -> Path | None:
    """That no file is in the way of a folder, or of one that it lies in."""
    for place in () if folder is None else (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise typer.BadParameter(f"it must be a folder, but {place} is a file.")
    return folder


# what is left of it
Out = Annotated[
    Path | None,
    typer.Option(
        help="A folder for tables (CSV), a record (JSON) and pictures.", callback=can_be_made, **PATH
    ),
]
RunFolder = Annotated[
    Path,
    typer.Option("--out", help="The folder to write to, made if need be.", callback=can_be_made, **PATH),
]
Resume = Annotated[bool, typer.Option(help="Go on with the run in the folder.")]
ShardText = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="Such as 3/8: the third of eight shares, each in a process of its own; `merge` joins them.",
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(help="Where files of the hub are kept, instead of the hub's own cache.", **PATH),
]
DeleteAfter = Annotated[
    bool, typer.Option(help="Delete each checkpoint that this run has downloaded after it was read.")
]
RayWorkers = Annotated[
    int | None,
    typer.Option("--ray", help="So many workers of Ray share the work, each with the model."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="Of a Ray cluster, such as 10.0.0.1:6379; by default one of this machine."),
]
RayGPUs = Annotated[float, typer.Option(help="GPUs of each worker of Ray; a share such as 0.5 will do.")]
RayThreads = Annotated[int, typer.Option(help="Threads of each worker of Ray.")]
Figures = Annotated[
    bool,
    typer.Option("--figures/--no-figures", help="Draw what takes the extras `plots` and `report`."),
]
