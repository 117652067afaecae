"""Learning which components to remove, and saying on other prompts what that is worth."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from tl_truncate.checks import natural, positive, real
from tl_truncate.experiments.learning.learner import Learnable, Rules
from tl_truncate.experiments.learning.mask import Layout
from tl_truncate.experiments.learning.reported import Learning
from tl_truncate.experiments.learning.result import FILE, LearnedMask
from tl_truncate.experiments.scoring.differentiable import objective_on
from tl_truncate.experiments.scoring.evaluate import check_model, check_task
from tl_truncate.experiments.scoring.memory import prompts_that_fit
from tl_truncate.experiments.search.asked import Asked
from tl_truncate.experiments.search.judge import Split, split_task
from tl_truncate.experiments.search.on_test import check_report_fits
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.places import Here
from tl_truncate.runs.folder import RunFolder
from tl_truncate.runs.manifests import HOOKS, TOKENS, make_manifest
from tl_truncate.surgery.circuits import require_no_overlap
from tl_truncate.surgery.cut import Cut
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.tasks.encode import encode
from tl_truncate.tasks.task import Task
from tl_truncate.weights.identity.content import hashed_once
from tl_truncate.weights.identity.hooks import hooks_at
from tl_truncate.weights.identity.provenance import of_model
from tl_truncate.weights.locate import find_sites, locate
from tl_truncate.weights.site import Site

# What a run folder may be gone on with: no step depends on how many follow.
_MAY_DIFFER: dict[str, Any] = dict(
    free=("model", "steps", "draws", "null"), noted=("device", "batch_size")
)


def learn_mask(
    model: Any,
    task: Task,
    *,
    sites: Sequence[Site | str] | None = None,
    budget: int = 64,
    objective: Learnable | None = None,
    price: float = 0.001,
    strength: float = 1.0,
    steps: int = 100,
    patience: int = 20,
    prompts_per_step: int = 16,
    test_fraction: float = 0.5,
    watch_fraction: float = 0.25,
    draws: int | None = None,
    null: bool = False,
    texts: Sequence[str] | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    prepend_bos: bool | None = None,
    batch_size: int = 32,
    max_memory: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> LearnedMask:
    """Learns which singular components to remove on validation prompts, and reports it on test prompts.

    Every component of the sites has a strength, `u -> u - sum_i m_i (u . v_i) v_i`, at the hook points
    where cuts are made; no weight is touched. The mask is **straight-through**: `m_i` is 1 for the
    components with the largest positive scores, at most `budget` of them, and 0 for the others; a
    score is the sum over the steps of

        d objective / d m_i - price,

    the gradient at the mask as it is, as if the step from score to mask were not there. So what is at
    work in every pass is a mask that can be handed out, exactly, and every component has a gradient in
    every step. A hard-concrete mask (Louizos et al. 2018) was not taken: it draws each strength, a
    component that is drawn as kept has no gradient, and with thousands of components either many are
    removed in every draw or few learn anything in the some dozens of steps that a laptop has time for;
    what is handed out in the end has been at work in no pass. The price is L0's: of each component
    that is removed, whatever its strength. There is no step size, since only the order and the signs
    of the scores matter. The first step's scores are those of `attribute`; later ones are taken with
    the others removed. Over the first 25 steps the mask grows to its budget, so that small masks are
    tried too.

    The prompts are divided as `search` divides them. A quarter of the validation half is set apart: it
    gives no gradient, and the mask that is worth most on it, less its price, is chosen. Learning stops
    after `patience` steps that found no better one. Equal prompts are on one side in both divisions.
    The result is one of many masks looked at on few prompts: read the change on the test half, not on
    the watched ones.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode.
        task: prompts and answers.
        sites: whose components may be removed; W_in and W_out of every layer by default.
        budget: most components that are removed, of all sites together.
        objective: the metric that should rise, `logit_diff` or `p_in_context`; by default the first, or
            where there are no global answers the second. Accuracy has no gradient.
        price: what a component has to gain, in units of the objective, by its gradient. A probability
            near 0 or 1 hardly has one: a price above it lets nothing in.
        strength: of the removal, as for a cut: 1 removes, .5 takes half, -1 doubles (an amplification).
        steps: most steps; a run folder may be gone on with for more.
        patience: steps without a better mask after which learning stops, once the mask may be of full
            size.
        prompts_per_step: that a step's gradient is taken from.
        test_fraction: share of the prompts that is reported on.
        watch_fraction: share of the validation prompts that is watched.
        draws: of each control; 16 for cuts of one site, else 4.
        null: learns a mask of as many directions of bases turned at random as well, and reports it
            beside the mask: the control that was selected as the mask was.
        texts: running text for the cost of the cuts; the sample that ships with the package by default,
            none with `()`.
        run_dir: a folder in which what is learned is kept after every step; given again, learning goes
            on, bit for bit at an equal number of threads. One process at a time works in it.
        prepend_bos: overrides the model's default.
        batch_size: most prompts in a pass.
        max_memory: most bytes beside the model, by an estimate; fewer prompts share a pass then.
        seed: of the divisions, the order of the prompts and the controls.
        progress: shows bars.

    Returns:
        The mask as cuts in `.cuts` (`Without` components, one for each site that loses any; empty if
        nothing was worth its price), its change on the test prompts with controls, `.history` of the
        learning, and `.frame` with a row for each component.

    Raises:
        ValueError: if an argument does not fit, there are too few prompts, or the folder holds another
            run; before any pass. And if logits are not finite.
        TypeError: if an argument is of the wrong kind.
        BlockingIOError: if another process works in the folder.

    Source: the question is that of Beyond Components (arXiv 2511.20273), masks over singular components;
    straight-through gradients are Bengio et al. 2013 (arXiv 1308.3432). Derived in the documentation,
    "Learning a mask".

    Examples:
        >>> names = [" John", " Mary", " Paris", " Rome"] * 3
        >>> task = tlt.Task(name="drink", prompts=[f"{a} gave a drink to" for a in "ABCDEFGHIJKL"],
        ...             in_context=names, global_=" the")
        >>> sites = ["blocks.1.mlp.W_out"]
        >>> found = tlt.learn_mask(model, task, sites=sites, budget=4, steps=3, texts=())
        >>> sum(found.frame["removed"]) <= 4, len(found.history)
        (True, 4)
    """
    check_task(task)
    check_model(model)
    chosen = _check_sites(model, sites)
    layout = Layout({site: min(locate(model, site).shape) for site in chosen})
    rises: Learnable = objective_on("objective", objective, task, get_args(Learnable))
    learnt: dict[str, Any] = dict(objective=rises, budget=budget, price=price, strength=strength)
    learnt |= dict(steps=steps, patience=patience, prompts_per_step=prompts_per_step, seed=seed)
    rules = _checked(layout, **learnt, prepend_bos=prepend_bos, batch_size=batch_size)
    draws = None if draws is None else positive("draws", draws)
    split, learned_on = _divided(task, test_fraction, watch_fraction, rules.seed)
    encoded = encode(model, task, prepend_bos=prepend_bos)
    every = [Cut(site, 0) for site in chosen]  # which the mask may cut all together
    check_report_fits(model, [encoded], every, len(every), texts, prepend_bos, max_memory)
    fitting: dict[str, Any] = dict(batch_size=rules.batch_size, max_memory=max_memory, gradients=True)
    rules = Rules(**asdict(rules) | dict(batch_size=prompts_that_fit(model, encoded, chosen, **fitting)))
    settings = {name: value for name, value in asdict(rules).items() if name != "prepend_bos"}
    settings |= dict(test_fraction=test_fraction, watch_fraction=watch_fraction, draws=draws, null=null)
    facts = {
        TOKENS: encoded.hash,
        HOOKS: hooks_at(model),
        "prepend_bos": encoded.prepend_bos,
        **settings,
    }
    options = SweepOptions(
        prepend_bos=prepend_bos, batch_size=rules.batch_size, max_memory=max_memory, seed=rules.seed
    )
    # What is made under inference_mode has no gradient, whatever is switched on later.
    with hashed_once(model), torch.inference_mode(False):
        manifest = partial(_manifest, model, task, chosen, facts)
        with _opened(run_dir, manifest) as place:
            asked = Asked(Here(model), options)
            learning = Learning(asked, layout, split, learned_on, rules, place, progress)
            result = learning.report(settings, draws=draws, null=null, texts=texts)
            if place is not None:
                result.save(place / FILE)
    return result


@contextmanager
def _opened(
    run_dir: str | os.PathLike[str] | None, manifest: Callable[[], dict[str, Any]]
) -> Iterator[Path | None]:
    """The folder, for as long as no other process works in it; None without one."""
    if run_dir is None:
        yield None
        return
    folder = RunFolder(run_dir)
    with folder.held():
        folder.open(manifest(), resume=True, **_MAY_DIFFER)
        yield folder.path


def _manifest(
    model: Any, task: Task, sites: Sequence[Site], settings: Mapping[str, Any]
) -> dict[str, Any]:
    return make_manifest(
        "learn_mask",
        **of_model(model),
        cuts=[cut.to_json() for cut in active_cuts(model)],
        task=task.to_json(),
        task_hash=task.hash,
        sites=list(map(str, sites)),
        **settings,
    )


def _check_sites(model: Any, sites: Sequence[Site | str] | None) -> list[Site]:
    chosen = find_sites(model) if sites is None else [Site.parse(site) for site in sites]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"sites must be one or more, each once, got {list(map(str, chosen))}.")
    require_no_overlap(model, [*(cut.site for cut in active_cuts(model)), *chosen])
    return chosen


def _checked(layout: Layout, **asked: Any) -> Rules:
    for name in ("steps", "patience", "prompts_per_step", "batch_size"):
        asked[name] = positive(name, asked[name])
    asked["seed"], asked["budget"] = natural("seed", asked["seed"]), natural("budget", asked["budget"])
    if asked["budget"] > layout.size:
        raise ValueError(
            f"budget must be at most {layout.size}, all components of the {len(layout.ranks)} sites, "
            f"got {asked['budget']}."
        )
    price, strength = real(asked["price"]), real(asked["strength"])
    if price is None or not 0 <= price < math.inf:
        raise ValueError(f"price must be a finite number from 0 up, got {asked['price']!r}.")
    if strength is None or not math.isfinite(strength) or not strength:
        raise ValueError(
            "strength must be a finite number other than 0 (1 removes, -1 doubles), got "
            f"{asked['strength']!r}."
        )
    return Rules(**asked | dict(price=price, strength=strength))


def _divided(task: Task, test_fraction: float, watch_fraction: float, seed: int) -> tuple[Split, Split]:
    """Validation and test, and of the validation prompts those that are fitted and those watched."""
    for name, value in (("test_fraction", test_fraction), ("watch_fraction", watch_fraction)):
        if not 0 < (real(value) or 0) < 1:
            raise ValueError(f"{name} must be a number between 0 and 1, got {value!r}.")
    split = split_task(task, test_fraction=test_fraction, seed=seed)
    uses = "take gradients from and two to watch"
    return split, split_task(split.validation, test_fraction=watch_fraction, seed=seed, uses=uses)
