"""A model whose components have strengths: what it says, and the gradient with respect to them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_truncate.experiments.learning.mask import Layout
from tl_truncate.experiments.scoring.answers import Batch, Sheet, plan_batches, require_finite
from tl_truncate.experiments.scoring.differentiable import Differentiable, log_probabilities, totals
from tl_truncate.replay.calls import end_logits, last_logits
from tl_truncate.surgery.hooks import active_cuts, truncated
from tl_truncate.surgery.masked import masked_cut
from tl_truncate.tasks.encode import EncodedTask
from tl_truncate.tasks.task import Task
from tl_truncate.weights.holding.gradients import gradients_through_quantised
from tl_truncate.weights.holding.placement import model_device, model_dtype
from tl_truncate.weights.linear import compute_dtype
from tl_truncate.weights.site import Site


class MaskedModel:
    """A model with a mask at work in it, inside of `masked`.

    Args:
        model: a HookedTransformer or TransformerBridge.
        layout: of the components.
        strengths: by site, leaves of the graph.
        batch_size: most rows in a pass.
    """

    def __init__(
        self, model: Any, layout: Layout, strengths: Mapping[Site, Tensor], batch_size: int
    ) -> None:
        self._model, self._layout, self._strengths = model, layout, strengths
        self._batch_size = batch_size

    def set(self, strengths: Float[Tensor, " components"]) -> None:
        """Gives every component its strength."""
        with torch.no_grad():
            for site, part in self._layout.parts.items():
                self._strengths[site].copy_(strengths[part])

    def mean(self, task: Task, encoded: EncodedTask, metric: Differentiable) -> float:
        """A metric's mean over the prompts of a task, as `evaluate` has it.

        Raises:
            ValueError: if logits are not finite.
        """
        sheet = Sheet([task], active_cuts(self._model))
        for batch in plan_batches([encoded], self._batch_size):
            sheet.fill(batch, last_logits(self._model, batch.tokens, batch.positions))
        return float(sheet.outcomes()[0].metrics()[metric].mean())

    def gradient(
        self, task: Task, encoded: EncodedTask, metric: Differentiable
    ) -> tuple[float, Float[Tensor, " components"]]:
        """The same mean, and its gradient with respect to every strength, in float64.

        `d mean / d m_i = - mean over prompts of sum_t (u_t . v_i)(g_t . v_i)`, with `u_t` what the
        mask is given, and `g_t` the metric's gradient at what it leaves.

        Raises:
            ValueError: if logits are not finite, or a site is not reached in a pass.
        """
        value, gradient = 0.0, torch.zeros(self._layout.size, dtype=torch.float64)
        for batch in plan_batches([encoded], self._batch_size):
            total, found = self._of_a_batch(task, batch, metric)
            value += total
            gradient += found
        return value / len(task), gradient / len(task)

    def _of_a_batch(self, task: Task, batch: Batch, metric: Differentiable) -> tuple[float, Tensor]:
        with torch.enable_grad():
            logits = end_logits(self._model, batch.tokens, batch.positions)
            said = log_probabilities(batch, logits)
            require_finite([task], active_cuts(self._model), batch, said.tolist())
            total = totals(batch, said, metric)
            leaves = list(self._strengths.values())
            found = torch.autograd.grad(total, leaves, allow_unused=True)
        self._require_reached(found)
        return float(total.detach()), torch.cat([each.double().cpu() for each in found])

    def _require_reached(self, found: Sequence[Tensor | None]) -> None:
        pairs = zip(self._strengths, found, strict=True)
        missing = [str(site) for site, gradient in pairs if gradient is None]
        if missing:
            raise ValueError(
                f"A pass must reach every site's hook point, but it did not reach {', '.join(missing)}, "
                "so that its mask has no gradient. Is the hook point switched off or replaced?"
            )


@contextmanager
def masked(
    model: Any, vectors: Mapping[Site, Float[Tensor, "n_out rank"]], *, batch_size: int
) -> Iterator[MaskedModel]:
    """Inside, every component of some sites has a strength, 0 at first, through hooks as a cut's.

    Not to be entered where `torch.inference_mode` is on, in which nothing has a gradient. No parameter
    asks for a gradient inside, so that only the blocks from the lowest site up are gone back through;
    on leaving each asks as it did before.

    Args:
        model: a HookedTransformer or TransformerBridge.
        vectors: of the components, orthonormal, by site.
        batch_size: most rows in a pass.

    Raises:
        ValueError: if a site addresses nothing in the model, or overlaps with a cut at work.
    """
    layout = Layout({site: each.shape[1] for site, each in vectors.items()})
    device, dtype = model_device(model), compute_dtype(model_dtype(model))
    with ExitStack() as stack:
        strengths = {
            site: torch.zeros(rank, dtype=dtype, device=device, requires_grad=True)
            for site, rank in layout.ranks.items()
        }
        cuts = [masked_cut(site, vectors[site], strengths[site]) for site in vectors]
        stack.enter_context(_frozen(model))
        stack.enter_context(gradients_through_quantised(model))
        stack.enter_context(truncated(model, cuts))
        yield MaskedModel(model, layout, strengths, batch_size)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
