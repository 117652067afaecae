"""`tl-truncate explore`: surgery on a model, live, as a page on this machine."""

import asyncio
import contextlib
import webbrowser
from typing import Annotated

import typer

from tl_truncate.checks import require_extra
from tl_truncate.cli.shared.app import app, console, kind
from tl_truncate.cli.shared.groups import grouped
from tl_truncate.cli.shared.model import ModelOptions
from tl_truncate.cli.shared.tasks import check_task_name, make_task
from tl_truncate.explore.exploration import Exploration
from tl_truncate.explore.show import exploration

_TASK_PROMPTS = 200


@app.command("explore")
@kind
@grouped
def explore_command(
    *,
    source: ModelOptions,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="A text to begin with; may be repeated.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="Begin with its prompts: a name such as `ioi`, or a JSON file."),
    ] = None,
    port: Annotated[int, typer.Option(help="0 takes any free one.", min=0, max=65535)] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
) -> None:
    """Shows surgery on a model, live, in the browser: drag how much of a weight stays.

    Example: `tl-truncate explore --model demo`

    The page is served on this machine alone, to whoever has its address. Ctrl-C ends it.
    """
    require_extra("explore")
    if prompt and task is not None:
        raise ValueError("Prompts must come from --prompt or from --task, got both.")
    if task is not None:
        check_task_name(task)
    model = source.load()
    prompts = prompt if task is None else make_task(task, _TASK_PROMPTS, 0, model)
    found = exploration(model, prompts or None, loaded=source.as_code())
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(found, port, browser))
    console.print("Ended.")


async def _serve(found: Exploration, port: int, browser: bool) -> None:
    from tl_truncate.explore.doors.server import Server, make_room

    make_room()
    server = Server(found, port)
    server.start()
    console.print(f"Open {server.door.address}", markup=False, soft_wrap=True)
    console.print("Ctrl-C ends it.")
    if browser:
        webbrowser.open(server.door.address)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
