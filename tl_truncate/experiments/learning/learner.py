"""Learning which components to remove: a straight-through mask, looked at after every step."""

import json
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from tl_truncate.experiments.learning.mask import Layout, harden
from tl_truncate.experiments.learning.masked_model import MaskedModel, masked
from tl_truncate.experiments.search.judge import Split, rounding_of
from tl_truncate.tasks.encode import encode
from tl_truncate.weights.files import load_tensors, save_tensors
from tl_truncate.weights.site import Site

Learnable = Literal["logit_diff", "p_in_context"]
#: Over so many steps the mask grows from nothing to its budget: small ones are looked at on the way.
GROWING = 25
_PROGRESS = "progress"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a mask is learned; `learn_mask` says what each means."""

    objective: Learnable
    budget: int
    price: float
    strength: float
    steps: int
    patience: int
    prompts_per_step: int
    seed: int
    prepend_bos: bool | None
    batch_size: int


@dataclass
class Progress:
    """What has been learned so far, which is all that the next step depends on.

    Attributes:
        scores: of every component, the sum over the steps of its straight-through gradient less the
            price.
        mask: that was at work in the last step.
        best: the mask that was worth most at a look.
        best_step: when that was.
        looks: one row for each step.
    """

    scores: Float[Tensor, " components"]
    mask: Bool[Tensor, " components"]
    best: Bool[Tensor, " components"]
    best_step: int = 0
    looks: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, size: int, path: Path | None) -> "Progress":
        """What a file has, or nothing learned yet.

        Raises:
            ValueError: if the file is damaged, or of other components.
        """
        if path is None or not path.exists():
            nothing = torch.zeros(size, dtype=torch.float64)
            return cls(nothing, nothing.bool(), nothing.bool())
        tensors, note = load_tensors(path)
        whole = tensors.keys() == {"scores", "mask", "best"} and _PROGRESS in note
        if not whole or any(len(each) != size for each in tensors.values()):
            raise ValueError(
                f"{path} must hold what was learned of {size} components, but it does not. Delete it, "
                "and learning begins anew."
            )
        mask, best = tensors["mask"].bool(), tensors["best"].bool()
        return cls(tensors["scores"], mask, best, **json.loads(note[_PROGRESS]))

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        note = json.dumps(dict(best_step=self.best_step, looks=self.looks))
        masks = dict(mask=self.mask.to(torch.uint8), best=self.best.to(torch.uint8))
        save_tensors(path, dict(scores=self.scores, **masks), {_PROGRESS: note})


def allowance(budget: int, step: int) -> int:
    """How many components the mask of a step may have.

    Examples:
        >>> [allowance(64, step) for step in (0, 1, 10, 25, 80)]
        [0, 3, 26, 64, 64]
    """
    return math.ceil(budget * min(step, GROWING) / GROWING)


def learn(
    model: Any,
    vectors: Mapping[Site, Float[Tensor, "n_out rank"]],
    prompts: Split,
    rules: Rules,
    path: Path | None,
    *,
    progress: bool,
    title: str,
) -> Progress:
    """Learns a mask of some directions, or goes on.

    What a step does depends on what was learned and on its number alone, so that a run that was stopped
    anywhere goes on bit for bit.

    Args:
        model: a HookedTransformer or TransformerBridge.
        vectors: directions to choose from, orthonormal, by site.
        prompts: to take gradients from (`validation`), and to watch (`test`).
        rules: how.
        path: a file to keep what is learned after every step, and to go on from.
        progress: shows a bar.
        title: of the bar.

    Raises:
        ValueError: if logits are not finite, or the file is of other components or of more steps.
    """
    found = Progress.of(Layout({site: each.shape[1] for site, each in vectors.items()}).size, path)
    if len(found.looks) > rules.steps:
        raise ValueError(
            f"steps must be at least {len(found.looks)}, which {path} has taken, got {rules.steps}. "
            "Use another folder."
        )
    bar = tqdm(total=rules.steps, initial=len(found.looks), desc=title, disable=not progress)
    with bar, masked(model, vectors, batch_size=rules.batch_size) as at_work:
        learner = _Learner(model, at_work, prompts, rules, found)
        while learner.step():
            if path is not None:
                found.save(path)
            bar.update()
            bar.set_postfix_str(f"{int(found.mask.sum())} removed", refresh=False)
    return found


class _Learner:
    """One step after the other: a look at the mask, and the gradient at it."""

    def __init__(
        self, model: Any, at_work: MaskedModel, prompts: Split, rules: Rules, found: Progress
    ) -> None:
        self._model, self._masked, self._prompts, self._rules = model, at_work, prompts, rules
        self._found = found
        self._fit = encode(model, prompts.validation, prepend_bos=rules.prepend_bos)
        self._watch = encode(model, prompts.test, prepend_bos=rules.prepend_bos)

    def step(self) -> bool:
        """Looks at the mask, and takes a step unless the learning has ended; whether it has not."""
        start, found, rules = time.perf_counter(), self._found, self._rules
        number = len(found.looks)
        self._look(number, harden(found.scores, allowance(rules.budget, number)))
        since = number - max(found.best_step, GROWING)
        goes_on = number < rules.steps and since < rules.patience
        value = math.nan
        if goes_on:
            chosen = minibatch(len(self._prompts.validation), rules.prompts_per_step, number, rules.seed)
            part = self._prompts.validation.subset(chosen)
            encoded = replace(self._fit, prompts=tuple(self._fit.prompts[each] for each in chosen))
            value, gradient = self._masked.gradient(part, encoded, rules.objective)
            # The mask is strength * [score > 0], and the step in it is passed over.
            found.scores += rules.strength * gradient - rules.price
        found.looks[-1] |= dict(fit=value, seconds=time.perf_counter() - start)
        return goes_on

    def _look(self, number: int, mask: Tensor) -> None:
        """The objective under the mask, exactly, on the prompts that are watched."""
        found, rules = self._found, self._rules
        entered, left = int((mask & ~found.mask).sum()), int((found.mask & ~mask).sum())
        self._masked.set(rules.strength * mask.double())
        found.mask = mask
        value = (
            self._masked.mean(self._prompts.test, self._watch, rules.objective)
            if entered or left or not found.looks
            else found.looks[-1]["watched"]
        )
        uncut = found.looks[0]["watched"] if found.looks else value
        worth = value - uncut - rules.price * int(mask.sum())
        row = dict(step=number, components=int(mask.sum()), entered=entered, left=left)
        found.looks.append(row | dict(watched=value, change=value - uncut, worth=worth))
        rounding = rounding_of(self._model, rules.objective, uncut)
        if worth > found.looks[found.best_step]["worth"] + rounding:
            found.best, found.best_step = mask, number


def minibatch(count: int, size: int, number: int, seed: int) -> list[int]:
    """The prompts of a step, in their order: each once before any comes again.

    Examples:
        >>> sorted(minibatch(6, 3, 0, 0) + minibatch(6, 3, 1, 0))
        [0, 1, 2, 3, 4, 5]
    """
    if size >= count:
        return list(range(count))
    found: list[int] = []
    for place in range(number * size, (number + 1) * size):
        order = list(range(count))
        random.Random(f"prompts {seed} {place // count}").shuffle(order)
        found.append(order[place % count])
    return sorted(found)
