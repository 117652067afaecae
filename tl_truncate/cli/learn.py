"""`tl-truncate learn`: a mask of components, learned on half of the prompts and reported on the other
half."""

from typing import Annotated, cast

import typer

from tl_truncate.cli.shared.app import app, kind, say
from tl_truncate.cli.shared.grid import SiteOptions
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import ModelOptions, PassOptions
from tl_truncate.cli.shared.options import Out, Resume, TaskName
from tl_truncate.cli.shared.printing import PrintOptions
from tl_truncate.cli.shared.tasks import PromptOptions, check_task_name
from tl_truncate.cli.shared.writing import check_new
from tl_truncate.experiments.learning.learn_mask import learn_mask
from tl_truncate.experiments.learning.learner import Learnable
from tl_truncate.runs.files import write_table


@app.command("learn")
@kind
@grouped
def learn_command(
    *,
    source: ModelOptions,
    task: TaskName = "ioi",
    where: SiteOptions,
    components: Annotated[int, typer.Option(help="Most components that are removed.")] = 64,
    objective: Annotated[
        str | None,
        typer.Option(help="logit_diff, or without global answers p_in_context.", show_default=False),
    ] = None,
    price: Annotated[float, typer.Option(help="What a component has to gain.")] = 0.001,
    steps: Annotated[int, typer.Option(help="Most steps; it stops early.")] = 100,
    null: Annotated[
        bool, typer.Option("--null", help="A mask of directions turned at random, beside it.")
    ] = False,
    out: Out = None,
    resume: Resume = False,
    prompts: PromptOptions,
    passes: PassOptions,
    printed: PrintOptions,
) -> None:
    """Learns which components to remove on half of the prompts, and reports it on the other half.

    Example: `tl-truncate learn --model demo --task ioi --layers 20-29 --components 64 --out masks/ioi`

    With --out what is learned is kept after every step, and goes on by --resume; the mask is in
    cuts.json.
    """
    check_task_name(task)
    sites = where.grid([])
    check_new(out, resume)
    model = source.load()
    found = learn_mask(
        model,
        prompts.make(task, model),
        sites=sites.sites(model),
        budget=components,
        objective=cast(Learnable | None, objective),
        price=price,
        steps=steps,
        null=null,
        run_dir=out,
        prepend_bos=prompts.prepend_bos,
        seed=prompts.seed,
        **passes.to_arguments(),
    )
    if out is not None:
        found.cuts.save(out / "cuts.json")
        write_table(out / "history.csv", found.history)
    if not printed.print(found.to_json(), found.summary().reset_index()):
        say(str(found))
