"""`explore`: the live view in a notebook."""

from typing import Any

from tl_truncate.explore.exploration import Exploration
from tl_truncate.explore.prompts import as_examples
from tl_truncate.explore.tasks import makers
from tl_truncate.tasks.task import Task
from tl_truncate.weights.identity.deterministic import require_deterministic
from tl_truncate.weights.locate import find_sites
from tl_truncate.weights.site import MATRICES


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
