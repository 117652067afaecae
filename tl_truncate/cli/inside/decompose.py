"""`tl-truncate decompose`: one prompt's MLP outputs in a global and an in-context part."""

from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from tl_truncate.checks import one_of, positive
from tl_truncate.cli.shared.app import app, kind, say
from tl_truncate.cli.shared.grid import read_layers
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import ModelOptions, PassOptions
from tl_truncate.cli.shared.options import PATH, Bos, Corpus, Figures, Layers, Out
from tl_truncate.cli.shared.parse import parse_keep
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.cli.shared.tables import Column, say_table
from tl_truncate.cli.shared.writing import check_figures, say_written, write_tables
from tl_truncate.corpora.passages import read_passages
from tl_truncate.corpora.texts import manual_texts
from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.decompose.parts import MEANING, Method
from tl_truncate.experiments.scoring.memory import corpus_rows_that_fit
from tl_truncate.experiments.scoring.prompt_view import PromptView, view_prompt
from tl_truncate.experiments.screening.part_attribution import part_attribution
from tl_truncate.tasks.task import Task
from tl_truncate.weights.files import replacing

# Of the corpus that means are fitted on, as many rows in a pass as the library takes.
_CORPUS_PASSES = PassOptions(batch_size=16)

_PARTS = {"global": "global", "in_context": "in-context"}


@app.command("decompose")
@kind
@grouped
def decompose_command(
    *,
    source: ModelOptions,
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
        typer.Option(
            help="Token means: read if the file is there, else fitted and written to it.", **PATH
        ),
    ] = None,
    corpus: Corpus = None,
    words: Annotated[int, typer.Option(help="Of the default corpus.")] = 10_000,
    layers: Layers = None,
    keep: Annotated[str, typer.Option(help="For spectral.")] = "0.1",
    out: Out = None,
    figures: Figures = True,
    prepend_bos: Bos = None,
    passes: PassOptions = _CORPUS_PASSES,
    printed: PrintOptions,
) -> None:
    """Says which layers' global and in-context parts push which answers at a prompt's last token.

    Example: `tl-truncate decompose --model demo --prompt "When Mary and John went to the store, John
    gave a drink to" --answers " Mary" " the"`
    """
    figures = figures and out is not None
    check_figures(figures, "plots")
    one_of("--method", method, get_args(Method))
    positive("--words", words)
    passes.check()
    if means is not None and method != "token_mean":
        raise ValueError(f"--means must go with --method token_mean, got {method!r}.")
    chosen, rule = read_layers(layers), parse_keep(keep)
    if corpus is not None:
        next(read_passages(corpus))  # a file without passages is found before a model is loaded
    model = source.load()
    options: dict[str, Any] = dict(method=method, layers=chosen, keep=rule, prepend_bos=prepend_bos)
    options["means"] = None
    if method == "token_mean":
        options["means"] = _means(model, means, corpus, words, chosen, passes.to_arguments())
    view = view_prompt(model, prompt, answers, **options)
    written = [] if out is None else _write(view, out)
    if figures and out is not None:
        written.append(_draw(model, view, answers, options, out))
    if printed.print(view.frame.to_dict(orient="records"), view.frame):
        return
    _say_parts(view, method)
    say(MEANING[cast(Method, method)], style="dim")
    if out is not None:
        say_written(out, written)


def _means(
    model: Any,
    path: Path | None,
    corpus: Path | None,
    words: int,
    layers: list[int] | None,
    passes: dict[str, Any],
) -> TokenMeans:
    if path is not None and path.exists() and corpus is None:
        return TokenMeans.load(path)
    texts = manual_texts(words) if corpus is None else corpus
    options: dict[str, Any] = dict(layers=layers, max_tokens=256)
    rows = corpus_rows_that_fit(model, texts, shares=True, **options, **passes)
    return TokenMeans.fit(model, texts, batch_size=rows, path=path, **options)


def _say_parts(view: PromptView, method: str) -> None:
    frame = view.frame
    last = frame[frame["position"] == frame["position"].max()]
    values = last.set_index(["layer", "answer", "part"])["logits"]
    columns = [Column("MLP", [str(layer) for layer in view.layers])]
    for answer in view.answers.values():
        for part in _PARTS:
            cells = [f"{values[layer, answer, part]:+.2f}" for layer in view.layers]
            columns.append(Column(f"{_PARTS[part]}\n{answer!r}", cells))
    for part in _PARTS:
        tokens = [view.pushed(layer, part, k=1)["token"][:1] for layer in view.layers]
        cells = [" ".join(map(repr, each)) for each in tokens]
        columns.append(Column(f"{_PARTS[part]}\nmost", cells, left=True, drop=1))
    say_table(columns, title=f"{view.prompt!r}: logits added ({method})")


def _write(view: PromptView, out: Path) -> list[str]:
    """The table and the coloured tokens; the files' names."""
    names = write_tables(out, {"table": view.frame})
    pages = [view.to_html(answer) for answer in view.answers.values()]
    with replacing(out / "tokens.html") as path:
        path.write_text(f"<!doctype html><meta charset='utf-8'>{''.join(pages)}\n", encoding="utf-8")
    return [*names, "tokens.html"]


def _draw(
    model: Any, view: PromptView, answers: tuple[str, str], options: dict[str, Any], out: Path
) -> str:
    """The picture of the parts; its file's name."""
    from tl_truncate.plots import parts, save

    task = Task(name="prompt", prompts=[view.prompt], in_context=answers[:1], global_=answers[1:])
    save(parts(part_attribution(model, task, progress=False, **options)), out / "parts.png")
    return "parts.png"
