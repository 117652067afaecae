"""The command line: `tl-truncate demo | evaluate | spectrum | sites | cache`."""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from tl_truncate.experiments.demo import LayerEffects, late_layer_effects
from tl_truncate.experiments.evaluate import METRICS, Scores, evaluate
from tl_truncate.experiments.record import versions
from tl_truncate.models import load_model
from tl_truncate.surgery.controls import NormMatched, RandomSubspace
from tl_truncate.surgery.cut import Cut, Cuts, SiteCut
from tl_truncate.tasks.facts import factual_recall
from tl_truncate.tasks.ioi import ioi
from tl_truncate.tasks.task import Task
from tl_truncate.weights.cache import cache_clear, cache_info
from tl_truncate.weights.keep import Keep, as_keep
from tl_truncate.weights.linear import available, find_sites, locate, n_layers
from tl_truncate.weights.processing import processing
from tl_truncate.weights.site import MATRICES
from tl_truncate.weights.spectrum import spectrum

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Low-rank surgery on TransformerLens models while they run.",
)
cache_app = typer.Typer(no_args_is_help=True, help="The spectra stored on disk.")
app.add_typer(cache_app, name="cache")
console = Console()
errors = Console(stderr=True)

P = ParamSpec("P")
R = TypeVar("R")

ModelName = Annotated[
    str, typer.Option("--model", "-m", help="`demo`, a hub name, `pythia-160m`, or a folder.")
]
BackendName = Annotated[str, typer.Option(help="`bridge`, or `hooked` on TransformerLens 3.")]
Checkpoint = Annotated[int | None, typer.Option(help="Training step of a Pythia model.")]
Dtype = Annotated[str, typer.Option(help="Of the weights, such as float32 or bfloat16.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _kind(command: Callable[P, R]) -> Callable[P, R]:
    """Shows what was wrong with the user's input as one message, and exits with 2."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (ValueError, TypeError, OSError, ModuleNotFoundError) as problem:
            errors.print(f"[bold red]error:[/] {_escape(str(problem))}", soft_wrap=True)
            raise typer.Exit(2) from problem

    return wrapper


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


@app.command()
@_kind
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the table.")] = Path("demo"),
    model: ModelName = "demo",
    n: Annotated[int, typer.Option(help="Prompts for each task.")] = 50,
    seed: Annotated[int, typer.Option(help="Of prompts, controls and bootstrap.")] = 0,
) -> None:
    """Cuts the MLPs of the last third of the layers, and shows what the model says then.

    Example: `tl-truncate demo --out demo`
    """
    loaded = load_model(model)
    effects = late_layer_effects(loaded, n=n, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    for name, scores in effects.baselines.items():
        console.print(f"[bold]uncut[/] {_escape(str(scores))}")
        console.print(_effects_table(effects, name))
        console.print(_verdict(effects, name))
    effects.frame.to_csv(out / "effects.csv", index=False)
    record = {name: scores.to_json() for name, scores in effects.baselines.items()}
    (out / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    _save_picture(effects, out / "effects.png")
    console.print(f"Written: {out}/effects.csv, record.json, effects.png")


def _save_picture(effects: LayerEffects, path: Path) -> None:
    from tl_truncate.plots import layer_effects

    layer_effects(effects.frame, effects.baselines).savefig(path)


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


@app.command("evaluate")
@_kind
def evaluate_command(
    model: ModelName,
    task: Annotated[str, typer.Option(help="`ioi`, `facts`, or a task's JSON file.")] = "ioi",
    cut: Annotated[
        list[str] | None,
        typer.Option(help="SITE=KEEP, such as `blocks.27.mlp.W_in=0.01`; may be repeated."),
    ] = None,
    cuts: Annotated[Path | None, typer.Option(help="A JSON file written by Cuts.save.")] = None,
    controls: Annotated[bool, typer.Option(help="Score random and norm-matched controls too.")] = False,
    n: Annotated[int | None, typer.Option(help="Prompts (100 of ioi, all facts).")] = None,
    seed: Annotated[int, typer.Option(help="Of prompts, controls and bootstrap.")] = 0,
    prepend_bos: Annotated[
        bool | None,
        typer.Option("--prepend-bos/--no-prepend-bos", help="By default as the model has it."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Prompts in a pass.")] = 32,
    backend: BackendName = "bridge",
    checkpoint: Checkpoint = None,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Scores a model on a task, uncut and with all the cuts together.

    Example: `tl-truncate evaluate --model demo --task ioi --cut blocks.27.mlp.W_in=0.01`

    KEEP is a rank (8), a fraction (0.1), or a rule (`Energy(0.95)`, `DropTop(4)`, `Band(2, 8)`).
    """
    chosen = Cuts([parse_cut(text) for text in cut or []], Cuts.load(cuts) if cuts else [])
    if task not in ("ioi", "facts") and not Path(task).is_file():
        raise ValueError(f"--task must be ioi, facts or a task's JSON file, got {task!r}.")
    loaded = load_model(
        model, backend=_backend(backend), checkpoint=checkpoint, dtype=dtype, device=device
    )
    prompts = _task(task, n, seed, loaded.tokenizer)
    options: dict[str, Any] = dict(prepend_bos=prepend_bos, batch_size=batch_size, seed=seed)
    options["progress"] = not as_json
    scores = {"cut" if chosen else "uncut": evaluate(loaded, prompts, chosen, **options)}
    if chosen and controls:
        options["baseline"] = scores["cut"].baseline
        for name, kind in (("random subspace", RandomSubspace), ("norm matched", NormMatched)):
            placebo = [_control(kind, each, seed) for each in chosen]
            scores[name] = evaluate(loaded, prompts, placebo, **options)
    if as_json:
        typer.echo(json.dumps({name: each.to_json() for name, each in scores.items()}, indent=2))
    else:
        console.print(_scores_table(scores))


def _control(kind: Any, cut: SiteCut, seed: int) -> SiteCut:
    keep: Keep | int = getattr(cut, "keep", 0)
    control: SiteCut = kind(cut.site, keep, seed, strength=cut.strength)
    return control


def _backend(name: str) -> Any:
    return name


def _task(name: str, n: int | None, seed: int, tokenizer: Any) -> Task:
    if name == "ioi":
        return ioi(n=100 if n is None else n, seed=seed, tokenizer=tokenizer)
    if name == "facts":
        return factual_recall(n=n, seed=seed, tokenizer=tokenizer)
    task = Task.load(name)
    return task if n is None else task.subset(range(min(n, len(task))))


def _scores_table(scores: dict[str, Scores]) -> Table:
    first = next(iter(scores.values()))
    record = first.record
    table = Table(
        title=_escape(
            f"{record.task}: {record.n_prompts} prompts, {record.model}, {record.weights} weights, "
            f"{'with' if record.prepend_bos else 'without'} BOS"
        )
    )
    table.add_column("metric")
    if first.baseline is not None:
        table.add_column("uncut", justify="right")
    for name in scores:
        table.add_column(name, justify="right")
        if first.baseline is not None:
            table.add_column("change", justify="right")
    for metric in METRICS:
        cells: list[str] = [metric]
        if first.baseline is not None:
            cells.append(str(first.baseline.estimate(metric)))
        for each in scores.values():
            cells.append(str(each.estimate(metric)))
            if each.baseline is not None:
                cells.append(str(each.change(metric)))
        table.add_row(*map(_escape, cells))
    return table


@app.command("spectrum")
@_kind
def spectrum_command(
    model: ModelName,
    site: Annotated[str, typer.Option(help="Such as `blocks.3.mlp.W_out`.")],
    keep: Annotated[
        list[str] | None, typer.Option(help="Show what these keep; may be repeated.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens that each direction writes.")] = 0,
    backend: BackendName = "bridge",
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Shows the spectrum of one weight matrix.

    Example: `tl-truncate spectrum --model demo --site blocks.28.mlp.W_out --keep 0.1 --tokens 5`
    """
    rules = [parse_keep(text) for text in keep or ["0.01", "0.1", "0.5", "MarchenkoPastur()"]]
    loaded = load_model(model, backend=_backend(backend), checkpoint=checkpoint)
    spec = spectrum(loaded, site)
    rows: list[dict[str, Any]] = [
        dict(keep=repr(rule), rank=len(spec.kept(rule)), energy=spec.energy(rule), gap=spec.gap(rule))
        for rule in rules
    ]
    written = spec.tokens(loaded, tokens) if tokens else None
    if as_json:
        data: dict[str, Any] = dict(site=site, shape=spec.shape, singular_values=spec.S.tolist())
        data.update(method=spec.method, keeps=rows, versions=versions())
        if written is not None:
            data["tokens"] = written.to_dict(orient="records")
        typer.echo(json.dumps(data, indent=2))
        return
    console.print(_escape(str(spec)))
    table = Table("keep", "rank", "energy kept", "gap / S_1")
    for row in rows:
        table.add_row(row["keep"], str(row["rank"]), f"{row['energy']:.3f}", f"{row['gap']:.1e}")
    console.print(table)
    if written is not None:
        for (component, sign), part in written.groupby(["component", "sign"], sort=False):
            texts = " ".join(repr(text) for text in part["token"])
            console.print(f"{component} {'+' if sign > 0 else '-'}: {_escape(texts)}")


@app.command()
@_kind
def sites(
    model: ModelName,
    backend: BackendName = "bridge",
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Lists the weight matrices of a model that can be cut.

    Example: `tl-truncate sites --model demo`
    """
    loaded = load_model(model, backend=_backend(backend), checkpoint=checkpoint)
    found = find_sites(loaded, MATRICES)
    if as_json:
        shapes = {str(site): list(locate(loaded, site).weight().shape) for site in found}
        typer.echo(json.dumps(shapes, indent=2))
        return
    console.print(f"{n_layers(loaded)} blocks, weights: {processing(loaded)}")
    table = Table("matrix", "layers", "shape")
    for matrix in available(loaded, found[0].layer):
        layers = [site.layer for site in found if site.matrix == matrix]
        first = next(site for site in found if site.matrix == matrix)
        n_in, n_out = locate(loaded, first).weight().shape
        table.add_row(matrix, f"{min(layers)} to {max(layers)}", f"{n_in} x {n_out}")
    console.print(table)


@cache_app.command("info")
@_kind
def cache_info_command() -> None:
    """Says where the stored spectra are and how much room they take.

    Example: `tl-truncate cache info`
    """
    typer.echo(str(cache_info()))


@cache_app.command("clear")
@_kind
def cache_clear_command() -> None:
    """Deletes the stored spectra.

    Example: `tl-truncate cache clear`
    """
    typer.echo(f"deleted {cache_clear()}")


_RULE = re.compile(r"([A-Za-z]+)\(([^()]*)\)")


def parse_keep(text: str) -> Keep:
    """Reads a keep rule from text: a rank, a fraction, or a rule with its numbers.

    Raises:
        ValueError: if the text is none of these.

    Example:
        >>> parse_keep("8"), parse_keep("0.1"), parse_keep("Band(2, 8)")
        (Rank(k=8), Fraction(rho=0.1), Band(i=2, j=8))
    """
    match = _RULE.fullmatch(text.strip())
    try:
        if match is None:
            return as_keep(_number(text))
        name, inside = match.groups()
        numbers = [_number(part) for part in inside.split(",") if part.strip()]
        rules = Keep._rules
        if name not in rules:
            raise ValueError(f"the rules are {', '.join(sorted(rules))}")
        return rules[name](*([tuple(numbers)] if name == "Components" else numbers))
    except (ValueError, TypeError) as problem:
        raise ValueError(
            f"A keep must be a rank (8), a fraction (0.1) or a rule such as Energy(0.95), got "
            f"{text!r}: {problem}"
        ) from None


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"\s*[+-]?\d+\s*", text) else float(text)


def parse_cut(text: str) -> Cut:
    """Reads a cut from `SITE=KEEP`.

    Raises:
        ValueError: if the text is not of this form.

    Example:
        >>> parse_cut("blocks.27.mlp.W_in=0.01")
        Cut(site='blocks.27.mlp.W_in', keep=Fraction(rho=0.01))
    """
    site, separator, keep = text.partition("=")
    if not separator:
        raise ValueError(f"A cut must read SITE=KEEP, such as blocks.27.mlp.W_in=0.01, got {text!r}.")
    return Cut(site, parse_keep(keep))
