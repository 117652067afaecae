"""What a recall experiment is: its data, its model, its training."""

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import torch

from tl_truncate.checks import as_integers, natural
from tl_truncate.models import Backend
from tl_truncate.runs.codec import plain, read
from tl_truncate.toys.recall.bigrams import BigramTable
from tl_truncate.toys.recall.data import RecallData

Loss = Literal["triggers", "everywhere"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["constant", "linear"]
Initialisation = Literal["official", "gpt2"]
_CHOICES = {
    "loss": get_args(Loss),
    "optimizer": get_args(Optimizer),
    "schedule": get_args(Schedule),
    "initialisation": get_args(Initialisation),
    "backend": get_args(Backend),
    "dtype": ("float32", "float64"),
}
_COUNTS = ("d_model", "n_layers", "batch_size", "steps", "eval_size")


@dataclass(frozen=True)
class RecallConfig:
    """A recall experiment; the defaults are the official setting.

    Args:
        data: the sequences.
        d_model: width; there is one head.
        n_layers: blocks.
        mlp_ratio: width of the MLPs over d_model.
        loss: `triggers`, where a trigger has occurred before, or `everywhere`.
        optimizer: `sgd` or `adamw`.
        learning_rate: of the optimizer.
        schedule: `constant`, or `linear`, falling to zero.
        momentum: of SGD.
        weight_decay: of either.
        batch_size: sequences in a step.
        steps: of the optimizer.
        eval_size: sequences, clean and noisy, that the probes look at.
        initialisation: `official`, embeddings of standard deviation 1 and other weights uniform in
            `+-1/sqrt(n_in)`; or `gpt2`, all normal with `0.8/sqrt(d_model)`, and `1/sqrt(2 n_layers)` of
            that for what writes to the residual stream, as TransformerLens does.
        unembedding_scale: of the output embeddings, over that of the initialisation.
        seed: of weights, training data and evaluation data.
        backend: `bridge` (boot_native) or `hooked` (TransformerLens 3).
        dtype: `float32` or `float64`.

    Raises:
        ValueError: if an argument does not fit.

    Examples:
        >>> RecallConfig.small(alpha=0.3, steps=100).data.alpha
        0.3
    """

    data: RecallData = field(default_factory=lambda: RecallData(BigramTable.english()))
    d_model: int = 256
    n_layers: int = 2
    mlp_ratio: int = 4
    loss: Loss = "triggers"
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.03
    schedule: Schedule = "constant"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 512
    steps: int = 5000
    eval_size: int = 512
    initialisation: Initialisation = "official"
    unembedding_scale: float = 1.0
    seed: int = 0
    backend: Backend = "bridge"
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        as_integers(self, *_COUNTS, "mlp_ratio")
        as_integers(self, "seed", check=natural)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}."
                )
        if not 0 < self.unembedding_scale < float("inf"):
            raise ValueError(
                f"unembedding_scale must be a positive number, got {self.unembedding_scale!r}."
            )
        if not self.learning_rate > 0 or self.weight_decay < 0 or not 0 <= self.momentum < 1:
            raise ValueError(
                "learning_rate must be positive, weight_decay from 0 up and momentum from 0 to below 1, "
                f"got {self.learning_rate}, {self.weight_decay} and {self.momentum}."
            )

    @classmethod
    def official(cls, **changes: Any) -> "RecallConfig":
        """The published setting: d=256, 256 positions, SGD, 5000 steps of 512 sequences; wants a GPU.

        The published text is Tiny Shakespeare; ours is the table that ships. Pass `table=` for another.

        Args:
            changes: fields of the configuration or of its data.

        Source: the code of Chen, Bruna and Bietti 2024, script_k1_noise05.sh.
        """
        return cls().changed(**changes)

    @classmethod
    def small(cls, **changes: Any) -> "RecallConfig":
        """The same in a minute on one core: d=128, 64 positions, AdamW, 400 steps of 64 sequences.

        Args:
            changes: fields of the configuration or of its data.
        """
        own = cls(
            d_model=128,
            optimizer="adamw",
            learning_rate=1e-3,
            schedule="linear",
            weight_decay=0.01,
            batch_size=64,
            steps=400,
            eval_size=128,
        )
        return own.changed(length=64).changed(**changes)

    @classmethod
    def separable(cls, loss: Loss = "triggers", **changes: Any) -> "RecallConfig":
        """The same in two to four minutes, with an MLP that does half of the recall.

        With embeddings of standard deviation 1 the attention alone says the target, and dropping the
        last MLP is as good as any cut. Smaller ones leave a part of it to the MLP, which then holds the
        noise and the target at once: the case in which a global part is worth separating.

        Args:
            loss: on the triggers that have occurred before, or everywhere.
            changes: fields of the configuration or of its data.
        """
        everywhere = loss == "everywhere"
        own = cls.small(
            loss=loss,
            initialisation="gpt2",
            unembedding_scale=0.85 if everywhere else 0.7,
            learning_rate=3e-3 if everywhere else 2e-3,
            steps=1600 if everywhere else 800,
        )
        return own.changed(**changes)

    def changed(self, **changes: Any) -> "RecallConfig":
        """The configuration with some of its fields, or of its data's, changed.

        Raises:
            ValueError: if there is no such field.
        """
        in_data = {each.name for each in fields(RecallData)}
        own = {each.name for each in fields(self)}
        unknown = sorted(set(changes) - in_data - own)
        if unknown:
            raise ValueError(
                f"A change must be of one of {', '.join(sorted(own | in_data))}, got "
                f"{', '.join(unknown)}."
            )
        data = changes.pop("data", self.data)
        data = replace(data, **{name: changes.pop(name) for name in in_data & set(changes)})
        return replace(self, data=data, **changes)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return self.learning_rate * (1.0 if self.schedule == "constant" else 1 - step / self.steps)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision of the weights."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def hash(self) -> str:
        """A short hash of everything that the result depends on."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain data, its bigram table included."""
        found: dict[str, Any] = plain(self)
        return _last(found | dict(data=_last(found["data"], "table")), "data")

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "RecallConfig":
        """Reads what `to_json` wrote."""
        return read(cls, data)


def _last(data: dict[str, Any], name: str) -> dict[str, Any]:
    """With one entry behind the others: the order is hashed, and was so from the first."""
    return {**{each: data[each] for each in data if each != name}, name: data[name]}
