"""What every component of every site is worth, to first order, from one pass there and back."""

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from tl_truncate.checks import natural, positive
from tl_truncate.decompose.passes import by_row
from tl_truncate.experiments.scoring.answers import Batch, plan_batches, require_finite
from tl_truncate.experiments.scoring.differentiable import (
    Differentiable,
    log_probabilities,
    objective_on,
    totals,
)
from tl_truncate.experiments.scoring.evaluate import check_model, check_task
from tl_truncate.experiments.scoring.memory import prompts_that_fit
from tl_truncate.experiments.screening.attribution import ATTRIBUTE, Attribution
from tl_truncate.replay.calls import graph_from, unembedding_only
from tl_truncate.runs.codec import plain
from tl_truncate.runs.manifests import HOOKS, TOKENS, make_manifest
from tl_truncate.runs.record import Record, make_record
from tl_truncate.runs.sharded.results import kept
from tl_truncate.runs.shards import Shard, as_shard, require_folder, share
from tl_truncate.surgery.circuits import require_no_overlap, sides
from tl_truncate.surgery.cut import Cuts
from tl_truncate.surgery.edit import in_compute_precision
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.tasks.encode import encode
from tl_truncate.tasks.task import Task
from tl_truncate.weights.holding.placement import model_device
from tl_truncate.weights.identity.hooks import hooks_at
from tl_truncate.weights.linear import Linear, head_slice
from tl_truncate.weights.locate import carrier, find_sites
from tl_truncate.weights.site import Site
from tl_truncate.weights.spectra.cache import forgetting
from tl_truncate.weights.spectra.spectrum import SingularValues, shared_spectrum


def attribute(
    model: Any,
    task: Task,
    *,
    sites: Sequence[Site | str] | None = None,
    metric: Differentiable | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    shard: tuple[int, int] | None = None,
    prepend_bos: bool | None = None,
    batch_size: int = 32,
    max_memory: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Attribution:
    """Predicts the effect of every cut of every site from one forward and one backward pass a batch.

    `delta_i = - sum_t (u_t . v_i)(g_t . v_i)`, with `u_t = y_t - b` the linear's output without its
    bias, `g_t` the gradient of the metric at that output, and `v_i` a right singular vector: the
    first-order change of the metric when component i is removed. A cut's prediction is the sum over
    what it removes. No gradient of a weight is computed.

    The result is an estimate; see `Attribution` for its known limits.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode.
        task: prompts and answers.
        sites: Sites or their names; W_in and W_out of every layer by default.
        metric: `logit_diff`, `p_in_context` or `p_global`; by default the first, or where there are no
            global answers `p_in_context`.
        run_dir: a folder that the result is kept in, and read from if it is there.
        shard: `(3, 8)` is the third of eight shares of the sites, whose factorisations cost about the
            same; `merge` joins them. The passes of the prompts are made by each. The result is of this
            shard's sites.
        prepend_bos: overrides the model's default.
        batch_size: prompts in a pass.
        max_memory: most bytes beside the model, by an estimate; fewer prompts share a pass then.
        seed: for the record; nothing is drawn.
        progress: shows a bar.

    Returns:
        Predictions: `.frame` per component, `.effect(site, keep)`, `.top(n)`.

    Raises:
        ValueError: if an argument does not fit, or a cut of another part of the same weight is at work,
            before any pass; or if a site's hook point is not reached, or logits are not finite; or if
            the folder, or a shard in it, is of another run.
        TypeError: if the task is no task.
        BlockingIOError: if another process works in the folder, or on the same shard.

    Source: Molchanov et al. 2017 (arXiv 1611.06440), the Taylor criterion, applied to the components of
    a spectrum; derived in the documentation, "Predicting a cut".

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> screen = tlt.attribute(model, task, sites=["blocks.2.mlp.W_out"])
        >>> len(screen.frame), float(screen.effect("blocks.2.mlp.W_out", keep=1.0))
        (32, 0.0)
    """
    check_task(task)
    check_model(model)
    batch_size, seed = positive("batch_size", batch_size), natural("seed", seed)
    part = as_shard(shard)
    require_folder(part, run_dir)
    chosen_metric: Differentiable = objective_on("metric", metric, task)
    chosen = find_sites(model) if sites is None else [Site.parse(site) for site in sites]
    for site in chosen:
        require_no_overlap(model, [*(cut.site for cut in active_cuts(model)), site])
    linears = {site: carrier(model, site) for site in chosen}
    encoded = encode(model, task, prepend_bos=prepend_bos)
    rows = prompts_that_fit(
        model, encoded, chosen, batch_size=batch_size, max_memory=max_memory, gradients=True
    )
    record = make_record(
        model, task, cuts=Cuts(active_cuts(model)), prepend_bos=encoded.prepend_bos, seed=seed
    )
    own = list(linears) if part is None else _share(linears, part)
    manifest = make_manifest(
        ATTRIBUTE.run.name,
        **plain(record) | {TOKENS: encoded.hash, HOOKS: hooks_at(model)},
        metric=chosen_metric,
        sites=list(map(str, linears)),
        rows=rows,
    )

    def work(folder: Path | None) -> Attribution:
        batches = plan_batches([encoded], rows, apart=True)
        with forgetting(max_memory is not None):
            return _attribute(
                model,
                task,
                {site: linears[site] for site in own},
                batches,
                chosen_metric,
                record,
                progress,
            )

    return kept(ATTRIBUTE, run_dir, part, manifest, list(map(str, own)), work)


def _share(linears: Mapping[Site, Linear], shard: Shard) -> list[Site]:
    """A shard's sites. A factorisation takes the product of both sides, and the shorter one again."""
    costs = [float(math.prod(each.shape) * min(each.shape)) for each in linears.values()]
    sites = list(linears)
    return [sites[place] for place in share(costs, shard)]


def _attribute(
    model: Any,
    task: Task,
    linears: dict[Site, Linear],
    batches: Sequence[Batch],
    metric: Differentiable,
    record: Record,
    progress: bool,
) -> Attribution:
    """The work itself; without a site there is none."""
    chosen = list(linears)
    values: dict[Site, SingularValues] = {}
    both: dict[Site, tuple[Tensor, Tensor]] = {}
    for site in tqdm(chosen, "spectra", disable=not progress):
        spec = shared_spectrum(model, site)
        values[site], both[site] = spec.values(), sides(model, spec)
    by_prompt = {site: torch.zeros(len(task), values[site].max_rank) for site in chosen}
    for batch in tqdm(batches if chosen else [], "attribute", disable=not progress):
        seen = values_and_gradients(model, task, linears, batch, metric)
        for site, (u, gradient) in seen.items():
            effects = component_effects(u, gradient, *both[site]).cpu()
            by_prompt[site] = by_prompt[site].to(effects.dtype).index_add(0, batch.prompts, effects)
    return Attribution(metric, by_prompt, values, len(task), record)


def component_effects(
    u: Float[Tensor, "batch pos n_out"],
    gradient: Float[Tensor, "batch pos n_out"],
    readers: Float[Tensor, "n_out rank"],
    vectors: Float[Tensor, "n_out rank"],
) -> Float[Tensor, "batch rank"]:
    """`- sum_t (u_t . a_i)(g_t . v_i)` for each row and component; `a_i` is `v_i` where cuts are
    orthogonal.

    Examples:
        >>> ones = torch.ones(1, 2, 3)
        >>> vectors = torch.eye(3)[:, :2]
        >>> component_effects(ones, 2 * ones, vectors, vectors).tolist()
        [[-4.0, -4.0]]
    """
    readers, vectors = readers.to(u.device, u.dtype), vectors.to(u.device, u.dtype)
    return -((u @ readers) * (gradient @ vectors)).sum(1)


def values_and_gradients(
    model: Any,
    task: Task,
    linears: dict[Site, Linear],
    batch: Batch,
    metric: Differentiable,
) -> dict[Site, tuple[Tensor, Tensor]]:
    """Each site's output without its bias, and the metric's gradient there, summed over the rows."""
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    device = model_device(model)
    with torch.enable_grad(), ExitStack() as stack:
        for linear in linears.values():
            _watch(stack, linear.output.name, linear.output.module, outputs)
            if linear.writes_one_head and linear.input is not None:
                _watch(stack, linear.input.name, linear.input.module, inputs)
        stack.enter_context(graph_from(model, 0))
        stack.enter_context(unembedding_only(model, batch.positions))
        logits = model(batch.tokens.to(device), return_type="logits")[:, -batch.positions :]
        said = log_probabilities(batch, logits)
        require_finite([task], active_cuts(model), batch, said.tolist())
        missing = [str(site) for site, linear in linears.items() if linear.output.name not in outputs]
        if missing:
            raise ValueError(
                f"A pass must reach every site's hook point, but it did not reach {', '.join(missing)}. "
                "Switch off use_attn_result for this."
            )
        points = list(outputs)
        found = torch.autograd.grad(totals(batch, said, metric), [outputs[name] for name in points])
    gradients = dict(zip(points, found, strict=True))
    outputs, inputs, gradients = (
        {name: by_row(value, batch.tokens) for name, value in each.items()}
        for each in (outputs, inputs, gradients)
    )
    return {
        site: _of_site(linear, outputs, inputs, gradients[linear.output.name])
        for site, linear in linears.items()
    }


def _watch(stack: ExitStack, name: str, module: Any, seen: dict[str, Tensor]) -> None:
    def keep(module: Any, args: Any, value: Tensor) -> None:
        seen[name] = value

    if name not in seen:
        stack.callback(module.register_forward_hook(keep).remove)


def _of_site(
    linear: Linear, outputs: dict[str, Tensor], inputs: dict[str, Tensor], gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The site's own columns of its hook point: without bias, and the gradient."""
    site = linear.site
    value = outputs[linear.output.name].detach()
    if linear.writes_one_head and linear.input is not None:
        x = in_compute_precision(_joined(inputs[linear.input.name].detach(), linear.shape[0], linear))
        own = x[..., head_slice(site, x.shape[-1], linear.n_heads)]
        rows = linear.stored.as_read()[linear.part].detach()
        return own @ rows.to(own.dtype), in_compute_precision(gradient)
    flat = _joined(value, linear.shape[1], linear)
    columns = head_slice(site, flat.shape[-1], linear.n_heads)
    bias = linear.bias()
    u = in_compute_precision(flat[..., columns])
    u = u if bias is None else u - bias.to(u.dtype)
    return u, in_compute_precision(_joined(gradient, linear.shape[1], linear)[..., columns])


def _joined(value: Tensor, width: int, linear: Linear) -> Tensor:
    """Heads side by side, where a hook point has them apart."""
    whole = width * (linear.n_heads if linear.site.head is not None else 1)
    return value if value.shape[-1] == whole else value.flatten(-2)
