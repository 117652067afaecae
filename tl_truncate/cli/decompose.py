"""`tl-truncate decompose`: one prompt's MLP outputs in a global and an in-context part."""

import json
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich import box
from rich.table import Table

from tl_truncate.cli.shared.app import (
    AsJson,
    BackendName,
    Checkpoint,
    ModelName,
    app,
    console,
    escape,
    kind,
    load,
)
from tl_truncate.cli.shared.options import Bos, Layers, read_layers
from tl_truncate.cli.shared.parse import parse_keep
from tl_truncate.corpora.texts import manual_texts
from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.decompose.parts import MEANING, Method
from tl_truncate.experiments.scoring.prompt_view import PromptView, view_prompt
from tl_truncate.experiments.screening.part_attribution import part_attribution
from tl_truncate.models import Backend
from tl_truncate.tasks.task import Task
from tl_truncate.weights.files import replacing


@app.command("decompose")
@kind
def decompose_command(
    model: ModelName,
    prompt: Annotated[str, typer.Option(help="The text.")],
    answers: Annotated[
        tuple[str, str],
        typer.Option(help="Two texts of one token, the in-context one first, such as `' Mary' ' the'`."),
    ],
    method: Annotated[
        str, typer.Option(help="token_mean, context_ablation, own_path or spectral.")
    ] = "token_mean",
    means: Annotated[
        Path | None,
        typer.Option(help="Token means: read if the file is there, else fitted and written to it."),
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="To fit on: a text file, empty lines between passages. By default Python's manual."
        ),
    ] = None,
    words: Annotated[int, typer.Option(help="Of the default corpus.")] = 10_000,
    layers: Layers = None,
    keep: Annotated[str, typer.Option(help="For spectral.")] = "0.1",
    out: Annotated[
        Path | None, typer.Option(help="A folder for table.csv, parts.png, tokens.html.")
    ] = None,
    prepend_bos: Bos = None,
    backend: BackendName = "bridge",
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
) -> None:
    """Says which layers' global and in-context parts push which answers at a prompt's last token.

    Example: `tl-truncate decompose --model demo --prompt "When Mary and John went to the store, John
    gave a drink to" --answers " Mary" " the"`
    """
    if method not in get_args(Method):
        raise ValueError(f"--method must be one of {', '.join(get_args(Method))}, got {method!r}.")
    chosen, rule = read_layers(layers), parse_keep(keep)
    loaded = load(model, backend=cast(Backend, backend), checkpoint=checkpoint)
    options: dict[str, Any] = dict(
        method=method, layers=chosen, keep=rule, prepend_bos=prepend_bos, means=None
    )
    if method == "token_mean":
        options["means"] = _means(loaded, means, corpus, words, chosen)
    view = view_prompt(loaded, prompt, answers, **options)
    if out is not None:
        _write(loaded, view, answers, options, out)
    if as_json:
        typer.echo(json.dumps(view.frame.to_dict(orient="records"), indent=2))
        return
    console.print(_table(view, method))
    console.print(escape(MEANING[cast(Method, method)]), style="dim")
    if out is not None:
        console.print(f"Written: {out}/table.csv, parts.png, tokens.html")


def _means(
    model: Any, path: Path | None, corpus: Path | None, words: int, layers: list[int] | None
) -> TokenMeans:
    if path is not None and path.exists() and corpus is None:
        return TokenMeans.load(path)
    texts = manual_texts(words) if corpus is None else corpus
    return TokenMeans.fit(model, texts, layers=layers, max_tokens=256, path=path)


def _table(view: PromptView, method: str) -> Table:
    table = Table(title=escape(f"{view.prompt!r}: logits added ({method})"), box=box.SIMPLE_HEAD)
    table.add_column("MLP", justify="right", no_wrap=True, min_width=3)
    frame = view.frame
    last = frame[frame["position"] == frame["position"].max()]
    pairs = [(answer, part) for answer in view.answers.values() for part in ("global", "in_context")]
    for answer, part in pairs:
        name = f"{part.replace('_', '-')}\n{answer!r}"
        table.add_column(escape(name), justify="right", no_wrap=True, min_width=10)
    for part in ("global", "in_context"):
        table.add_column(f"{part.replace('_', '-')}\nmost", overflow="ellipsis", no_wrap=True)
    values = last.set_index(["layer", "answer", "part"])["logits"]
    for layer in view.layers:
        cells = [f"{values[layer, answer, part]:+.2f}" for answer, part in pairs]
        for part in ("global", "in_context"):
            cells.append(" ".join(map(repr, view.pushed(layer, part, k=1)["token"][:1])))
        table.add_row(str(layer), *map(escape, cells))
    return table


def _write(
    model: Any, view: PromptView, answers: tuple[str, str], options: dict[str, Any], out: Path
) -> None:
    from tl_truncate.plots import parts as draw
    from tl_truncate.plots import save

    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "table.csv") as path:
        view.frame.to_csv(path, index=False)
    pages = [view.to_html(answer) for answer in view.answers.values()]
    with replacing(out / "tokens.html") as path:
        path.write_text(f"<!doctype html><meta charset='utf-8'>{''.join(pages)}\n", encoding="utf-8")
    task = Task(name="prompt", prompts=[view.prompt], in_context=answers[:1], global_=answers[1:])
    save(draw(part_attribution(model, task, progress=False, **options)), out / "parts.png")
