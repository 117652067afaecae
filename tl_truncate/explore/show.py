"""`explore`: surgery on a model, live, in a notebook."""

import weakref
from typing import Any

from tl_truncate.checks import require_extra
from tl_truncate.explore.exploration import Exploration
from tl_truncate.explore.prompts import as_examples
from tl_truncate.explore.tasks import makers
from tl_truncate.tasks.task import Task
from tl_truncate.weights.identity.deterministic import require_deterministic
from tl_truncate.weights.locate import find_sites
from tl_truncate.weights.site import MATRICES

# Where a model's last view was left, so that the cell that shows it can be run again.
_views: "weakref.WeakKeyDictionary[Any, Any]" = weakref.WeakKeyDictionary()


def explore(model: Any, prompts: Any = None, *, fresh: bool = False) -> Any:
    """Shows surgery on a model, live: drag how much of a weight's spectrum stays, and see what it says.

    The view has a map of the model, coloured by what cuts would do to first order; the most probable
    next tokens, uncut and cut; the two answers, beside a random control; the spectrum; and the logit
    lens. Cuts can be added up, evaluated on a task, and copied as Python. `tl-truncate explore` is the
    same on a page.

    Nothing of the model is changed. Hooks and contexts that are there when a question is answered
    belong to both sides.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer, in evaluation mode.
        prompts: a text, a list of texts or of `(text, in_context, global)`, or a Task; a few examples by
            default.
        fresh: begins anew; a second view of a model goes on where the last one was left otherwise.

    Returns:
        A widget, which shows itself at the end of a cell. Its `state` is what is on the page.

    Raises:
        ModuleNotFoundError: without the extra `widget`.
        TypeError: if the model or the prompts are of the wrong kind.
        ValueError: if the model has no tokenizer, or active dropout.

    Examples:
        >>> view = tlt.explore(model, "Mary gave a drink to")
        >>> view.state
        {}
    """
    require_extra("widget")
    from tl_truncate.explore.doors.widget import Explorer

    found = exploration(model, prompts)
    last = None if fresh else _views.get(model)
    given = [each.to_json() for each in found.prompts]
    state = dict(last.state) if last is not None else {}
    if prompts is not None and state.get("prompt") not in given:
        state.pop("prompt", None)  # what was asked for now is shown, and not the last prompt
    if last is not None:
        last.close()
    view = _views[model] = Explorer(found, state)
    return view


def exploration(model: Any, prompts: Any = None, *, loaded: str | None = None) -> Exploration:
    """What there is to explore of a model; everything that can be wrong is found here.

    Raises:
        TypeError: if the model or the prompts are none.
        ValueError: if the model has no tokenizer, or active dropout.
    """
    sites = tuple(find_sites(model, MATRICES))
    require_deterministic(model)
    if getattr(model, "tokenizer", None) is None:
        raise ValueError("The model must have a tokenizer to read prompts, got none.")
    own = {prompts.name: prompts} if isinstance(prompts, Task) else {}
    return Exploration(model, sites, as_examples(prompts), makers(model, own), loaded)
