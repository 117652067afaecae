"""`tl-truncate search`: cuts chosen on half of the prompts and reported on the other half."""

from typing import Annotated, cast, get_args

import typer

from tl_truncate.checks import one_of
from tl_truncate.cli.shared.app import app, kind, say
from tl_truncate.cli.shared.grid import GridOptions
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import SWEPT, ModelOptions, PassOptions
from tl_truncate.cli.shared.options import Out, Resume, ShardText, TaskNames
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.cli.shared.tasks import PromptOptions, check_task_name
from tl_truncate.cli.shared.workers import RayOptions, asked_of
from tl_truncate.cli.shared.writing import check_new
from tl_truncate.experiments.search.bound import MAX_RATIO, check_limit
from tl_truncate.experiments.search.judge import Combine, Objective
from tl_truncate.experiments.search.search import Method, search
from tl_truncate.runs.shards import as_pair, as_shard
from tl_truncate.weights.keep.defaults import KEEPS


@app.command("search")
@kind
@grouped
def search_command(
    *,
    source: ModelOptions,
    task: TaskNames = None,
    cutting: GridOptions,
    objective: Annotated[
        str, typer.Option(help="p_in_context, logit_diff or accuracy.")
    ] = "p_in_context",
    max_perplexity_ratio: Annotated[
        str,
        typer.Option(
            help="Most times that a choice may raise the perplexity of running text; none for no bound."
        ),
    ] = str(MAX_RATIO),
    combine: Annotated[str, typer.Option(help="Of several tasks: mean or worst.")] = "mean",
    method: Annotated[str, typer.Option(help="halving, or laser for the published search.")] = "halving",
    greedy: Annotated[int, typer.Option(help="Most cuts in the composition.")] = 1,
    budget: Annotated[
        float | None, typer.Option(help="Most settings' worth of work for each cut added.")
    ] = None,
    splits: Annotated[
        int, typer.Option(help="How often the search is made, for the optimism and its interval.")
    ] = 5,
    null: Annotated[
        bool, typer.Option("--null", help="The same search among random subspaces, beside it.")
    ] = False,
    out: Out = None,
    resume: Resume = False,
    shard: ShardText = None,
    ray: RayOptions,
    prompts: PromptOptions,
    passes: PassOptions = SWEPT,
    printed: PrintOptions,
) -> None:
    """Finds cuts that help on half of the prompts, and reports them on the other half.

    Example: `tl-truncate search --model demo --task ioi --greedy 3 --out searches/ioi`

    What is chosen raises the perplexity of running text by a tenth at most (--max-perplexity-ratio).
    With --out an interrupted search goes on by --resume; the cuts found are in cuts.json there.
    """
    names = [check_task_name(name) for name in task or ["ioi"]]
    grid = cutting.read(KEEPS)
    part, limit = as_shard(shard), read_limit(max_perplexity_ratio)
    one_of("--objective", objective, get_args(Objective))
    one_of("--combine", combine, get_args(Combine))
    one_of("--method", method, get_args(Method))
    check_new(out, resume or part is not None)
    with asked_of(source, names, prompts, grid, ray) as asked:
        found = search(
            asked.model,
            asked.tasks,
            sites=asked.sites,
            keeps=grid.keeps,
            objective=cast(Objective, objective),
            max_perplexity_ratio=limit,
            combine=cast(Combine, combine),
            method=cast(Method, method),
            greedy=greedy,
            budget=budget,
            splits=splits,
            null=null,
            run_dir=out,
            shard=as_pair(part),
            on=asked.on,
            prepend_bos=prompts.prepend_bos,
            seed=prompts.seed,
            **passes.to_arguments(),
        )
    if out is not None and part is None:  # several processes would write one file
        found.cuts.save(out / "cuts.json")
    if not printed.print(found.to_json(), found.summary().reset_index()):
        say(str(found))


def read_limit(text: str) -> float | None:
    """The bound on the cost, or None for none.

    Raises:
        ValueError: if the text is neither `none` nor a number from 1 up.

    Examples:
        >>> read_limit("1.05"), read_limit("none")
        (1.05, None)
    """
    if text == "none":
        return None
    try:
        return check_limit(float(text))
    except ValueError:
        raise ValueError(
            f"--max-perplexity-ratio must be a number from 1 up, such as 1.1, or none, got {text!r}."
        ) from None
