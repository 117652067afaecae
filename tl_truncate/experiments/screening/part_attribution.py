"""Which layers' global and in-context parts push which answer, over the prompts of a task."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from tl_truncate.checks import natural, positive
from tl_truncate.decompose.decompose import decompose
from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.decompose.parts import PARTS, Method
from tl_truncate.decompose.split import Split
from tl_truncate.drawing import Drawn
from tl_truncate.experiments.scoring.evaluate import check_model, check_task
from tl_truncate.experiments.scoring.memory import factor_bytes, logit_bytes, rows_that_fit
from tl_truncate.runs.codec import plain, read
from tl_truncate.runs.record import Record, make_record
from tl_truncate.runs.saved import Saved
from tl_truncate.runs.tables import own_table
from tl_truncate.statistics import mean_columns
from tl_truncate.surgery.cut import Cuts
from tl_truncate.surgery.hooks import active_cuts
from tl_truncate.tasks.encode import EncodedPrompt, EncodedTask, encode
from tl_truncate.tasks.task import Task
from tl_truncate.weights.keep import Keep
from tl_truncate.weights.locate import n_layers
from tl_truncate.weights.site import Site

ANSWERS = ("in_context", "global")
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class PartAttribution(Drawn, Saved):
    """What the parts of MLP outputs add to the logits of the answers, where the answer is said.

    Attributes:
        layers: of the MLPs.
        logits: `[prompt, layer, part, answer]`, nats, centred over the vocabulary; parts are global and
            in-context, answers in-context and global (of a sequence its first token); without global
            answers the right one alone.
        energy: `[prompt, layer, part]`, squared norm of the part.
        record: what they came from.
        split: the method, as plain data.
    """

    layers: tuple[int, ...]
    logits: Array
    energy: Array
    record: Record
    split: dict[str, Any]
    resamples: int = 2000

    @own_table
    def frame(self) -> pd.DataFrame:
        """One row per (layer, part, answer): mean logits with se, low, high, and the part's energy."""
        columns = self.logits.reshape(len(self.logits), -1)
        found = mean_columns(columns)
        shape = self.logits.shape[1:]
        mean, se, low, high = (
            each.reshape(shape) for each in (found.value, found.se, found.low, found.high)
        )
        energy = self.energy.mean(0)
        rows = [
            dict(
                layer=layer,
                part=part,
                answer=answer,
                logits=mean[i, j, k],
                se=se[i, j, k],
                low=low[i, j, k],
                high=high[i, j, k],
                energy=energy[i, j],
            )
            for i, layer in enumerate(self.layers)
            for j, part in enumerate(PARTS)
            for k, answer in enumerate(self.answers)
        ]
        return pd.DataFrame(rows)

    @property
    def answers(self) -> tuple[str, ...]:
        """The names of the answers that the prompts have."""
        return ANSWERS[: self.logits.shape[-1]]

    def largest(self, part: str = "global", answer: str | None = None, k: int = 1) -> list[int]:
        """The layers whose part pushes an answer most; the global one by default, if there is one.

        They are picked by these prompts: report what they do on others.

        Raises:
            ValueError: if there is no such part or answer.
        """
        answer = self.answers[-1] if answer is None else answer
        if part not in PARTS or answer not in self.answers:
            raise ValueError(
                f"The part must be one of {', '.join(PARTS)} and the answer one of "
                f"{', '.join(self.answers)}, got {part!r} and {answer!r}."
            )
        means = self.logits[:, :, PARTS.index(part), self.answers.index(answer)].mean(0)
        return [self.layers[place] for place in np.argsort(-means)[: positive("k", k)]]

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` is the inverse, to the last bit."""
        found: dict[str, Any] = plain(self)
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PartAttribution":
        """Reads what `to_json` wrote."""
        return read(cls, data)

    def __str__(self) -> str:
        lines = [
            f"{self.record.task}: {self.record.n_prompts} prompts on {self.record.model}, logits that "
            f"the parts of each MLP add where the answer is said ({self.split['method']})"
        ]
        table = self.frame.pivot_table(index="layer", columns=["part", "answer"], values="logits")
        return "\n".join([*lines, table.to_string(float_format="%+.2f")])

    def __repr__(self) -> str:
        return str(self)


def part_attribution(
    model: Any,
    task: Task,
    *,
    method: Method = "token_mean",
    means: TokenMeans | None = None,
    layers: Sequence[int] | None = None,
    from_layer: int = 0,
    keep: Keep | int | float = 0.1,
    prepend_bos: bool | None = None,
    batch_size: int = 32,
    max_memory: int | None = None,
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> PartAttribution:
    """Direct logit attribution of each MLP's global and in-context part to the answers of a task.

    Args:
        model: a HookedTransformer or TransformerBridge in evaluation mode.
        task: prompts and answers; one prompt will do.
        method: as for `decompose_mlp`.
        means: fitted, for `token_mean`.
        layers: all by default; with means, those that they are of.
        from_layer: for `context_ablation`.
        keep: for `spectral`.
        prepend_bos: overrides the model's default.
        batch_size: prompts in a pass.
        max_memory: most bytes beside the model, by an estimate; fewer prompts share a pass then.
        resamples: has no effect; of versions whose intervals were drawn.
        seed: for the record; nothing is drawn.
        progress: shows a bar if it takes long.

    Returns:
        The attributions, with `.frame` and `.largest(part, answer)`.

    Raises:
        ValueError: if an argument does not fit, before any pass.

    Examples:
        >>> task = tlt.Task(name="drink", prompts=["Mary gave a drink to"], in_context=[" John"],
        ...             global_=" the")
        >>> found = tlt.part_attribution(model, task, method="own_path")
        >>> found.frame[["layer", "part", "answer"]].values[0].tolist()
        [0, 'global', 'in_context']
    """
    options: dict[str, Any] = dict(
        prepend_bos=prepend_bos,
        batch_size=batch_size,
        max_memory=max_memory,
        resamples=resamples,
        seed=seed,
        progress=progress,
    )
    return attribute_split(model, task, Split(method, means, from_layer, keep), layers, **options)


def attribute_split(
    model: Any,
    task: Task,
    split: Split,
    layers: Sequence[int] | None,
    *,
    prepend_bos: bool | None,
    batch_size: int,
    max_memory: int | None,
    resamples: int,
    seed: int,
    progress: bool,
) -> PartAttribution:
    """`part_attribution` by a split that is at hand."""
    check_task(task)
    check_model(model)
    batch_size, seed = positive("batch_size", batch_size), natural("seed", seed)
    resamples = positive("resamples", resamples)
    split, chosen = split.on(model, layers)
    encoded = encode(model, task, prepend_bos=prepend_bos)
    limits: dict[str, Any] = dict(batch_size=batch_size, max_memory=max_memory)
    rows = parts_that_fit(model, encoded, split.method, chosen, **limits)
    logits = np.zeros((len(task), len(chosen), len(PARTS), 1 + task.has_global))
    energy = np.zeros(logits.shape[:-1])
    with tqdm(total=len(task), disable=not progress, desc="parts", delay=2, leave=False) as bar:
        for places in _batches(encoded.prompts, rows):
            prompts = [encoded.prompts[place] for place in places]
            logits[places], energy[places] = _attribute(model, prompts, chosen, split)
            bar.update(len(places))
    around = Cuts(active_cuts(model))
    record = make_record(model, task, cuts=around, prepend_bos=encoded.prepend_bos, seed=seed)
    return PartAttribution(tuple(chosen), logits, energy, record, split.to_json(), resamples)


def parts_that_fit(
    model: Any,
    encoded: EncodedTask,
    method: Method,
    layers: Sequence[int],
    *,
    batch_size: int,
    max_memory: int | None,
) -> int:
    """`rows_that_fit` for the division of some layers' outputs.

    Raises:
        ValueError: if not even one prompt fits.
    """
    sites = [Site(layer, "W_out") for layer in layers]
    return rows_that_fit(
        model,
        max(len(prompt.prompt) for prompt in encoded.prompts),
        batch_size=batch_size,
        max_memory=max_memory,
        row=logit_bytes(model),
        fixed=sum(factor_bytes(model, sites)) if method == "spectral" else 0,
        blocks=n_layers(model),  # own_path follows the tokens through all of them
    )


def _batches(prompts: Sequence[EncodedPrompt], size: int) -> Iterator[list[int]]:
    """Prompts of one length together, so that none is filled up."""
    by_length: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt.prompt), []).append(place)
    for places in by_length.values():
        for start in range(0, len(places), size):
            yield places[start : start + size]


def _attribute(
    model: Any, prompts: Sequence[EncodedPrompt], layers: Sequence[int], split: Split
) -> tuple[Array, Array]:
    tokens = torch.tensor([prompt.prompt for prompt in prompts])
    wanted = torch.tensor([[answer[0] for answer in prompt.answers] for prompt in prompts])
    unique, places = torch.unique(wanted, return_inverse=True)
    found = decompose(model, tokens, layers, split)
    logits, energy = [], []
    for layer in layers:
        own = found[layer]
        parts = [own.global_[:, -1:], own.in_context[:, -1:]]
        last = own.readout.with_scale(own.readout.norm.scale[:, -1:])
        said = [last.logits(part, unique.tolist())[:, 0].cpu().gather(1, places) for part in parts]
        logits.append(torch.stack(said, 1))
        energy.append(torch.stack([part[:, 0].double().square().sum(-1).cpu() for part in parts], 1))
    return torch.stack(logits, 1).numpy(), torch.stack(energy, 1).numpy()
