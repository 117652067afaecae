"""What is added to the logits of tokens: by the parts of an MLP, by one step of gradient descent."""

from typing import TYPE_CHECKING

import torch

from tl_truncate.decompose.parts import LogitAttribution
from tl_truncate.plots.shared.forest import Row, forest
from tl_truncate.plots.shared.kinds import draws
from tl_truncate.plots.shared.style import COLOURS, QUIET, sheet
from tl_truncate.statistics import estimate_mean
from tl_truncate.toys.gradients import OneStep

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@draws(LogitAttribution)
def logits(found: LogitAttribution, *, position: int = -1, tokens: int = 12) -> "Figure":
    """What both parts of an MLP's output add to the logits of tokens at one position, over all rows.

    Args:
        found: of `MLPDecomposition.logits`.
        position: in each row; rows that have padding there are left out.
        tokens: how many, those to which the whole output adds or takes most.

    Returns:
        A matplotlib figure of two panels, with 95% intervals over rows.

    Raises:
        ValueError: if there is no such position, or every row has padding there.
    """
    length = found.total.shape[1]
    if not -length <= position < length:
        raise ValueError(f"The position must be one of {length}, got {position}.")
    parts = {
        "global part": found.global_[:, position].double().cpu(),
        "in-context part": found.in_context[:, position].double().cpu(),
    }
    there = torch.stack(list(parts.values())).ne(0).any(0).any(-1)
    if not there.any():
        raise ValueError(f"A row must have a token at position {position}, got padding in all.")
    total = found.total[:, position].double().cpu()[there].mean(0)
    most = total.abs().topk(min(tokens, len(total))).indices
    chosen = most[total[most].argsort(descending=True)].tolist()
    ids = range(len(total)) if found.token_ids is None else found.token_ids
    figure = sheet(8.0, 1.3 + 0.26 * len(chosen))
    for axis, (title, part) in zip(figure.subplots(1, 2, sharey=True), parts.items(), strict=True):
        values = part[there].numpy()
        forest(axis, [Row(f"token {ids[place]}", estimate_mean(values[:, place])) for place in chosen])
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("logits added, nats", fontsize=8)
    figure.suptitle(
        f"What the MLP adds to logits at position {position}, mean of {int(there.sum())} rows",
        fontsize=9,
    )
    return figure


@draws(OneStep)
def one_step(found: OneStep, *, tokens: int = 12) -> "Figure":
    """The logits that the trigger has after one step, the largest first: the margin is the first gap.

    Args:
        found: of `toys.gradients.predicted_step` or `measured_step`.
        tokens: how many are shown.

    Returns:
        A matplotlib figure.
    """
    row = found.update[found.update.abs().sum(1).argmax()].cpu()
    values, places = row.topk(min(tokens, len(row)))
    figure = sheet(6.4, 2.8)
    axis = figure.subplots()
    noise = COLOURS[0] if found.margin > 0 else QUIET  # else another token is the first
    colours = [noise, *[QUIET] * (len(values) - 1)]
    axis.bar(range(len(values)), values.tolist(), color=colours)
    axis.axhline(0, color=QUIET, linewidth=1)
    axis.set_xticks(range(len(values)), list(map(str, places.tolist())), fontsize=7)
    axis.set_xlabel("token that follows the trigger", fontsize=8)
    axis.set_ylabel("logit", fontsize=8)
    axis.tick_params(axis="y", labelsize=7)
    figure.suptitle(
        f"After one step: the noise token is {abs(found.margin):.3g} "
        f"{'above' if found.margin > 0 else 'below'} the best other one",
        fontsize=9,
    )
    return figure
