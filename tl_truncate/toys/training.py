"""A training loop that can be stopped and goes on bit for bit where it was."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from tl_truncate.weights.files import load_tensors, save_tensors

# A state is a few megabytes, and a step some tenths of a second.
_SAVE_EVERY = 50


@dataclass(frozen=True)
class Training:
    """What is trained, and how.

    Attributes:
        steps: of the optimizer.
        optimizer: over the parameters that are trained.
        loss: of a step, by its number alone, so that a resumed run sees the same data.
        rate: learning rate of a step.
        visits: steps before which `visit` is called; `steps` itself is after the last one.
        visit: stores or measures something; is told the step and the last loss (NaN at first).
        state: file to resume from, or None.
        clip: largest norm of the gradient, or None.
    """

    steps: int
    optimizer: torch.optim.Optimizer
    loss: Callable[[int], Tensor]
    rate: Callable[[int], float]
    visits: Collection[int]
    visit: Callable[[int, float], None]
    state: Path | None
    clip: float | None = None

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained, in the optimizer's order."""
        return [each for group in self.optimizer.param_groups for each in group["params"]]


def train(training: Training, *, progress: bool, title: str) -> None:
    """Runs the steps that are left, and stores the state every 50 steps and after each visit.

    Raises:
        ValueError: if the stored state is of other parameters.
        FloatingPointError: if the loss is no longer finite.
    """
    start, value = -1, float("nan")
    if training.state is not None and training.state.exists():
        start, value = load_state(training.state, training)
    with tqdm(
        total=training.steps, initial=max(start, 0), desc=title, unit="step", disable=not progress
    ) as bar:
        for step in range(max(start, 0), training.steps + 1):
            # A state that was stored at this step was stored after its visit.
            if step in training.visits and step != start:
                training.visit(step, value)
            if step != start and (step in training.visits or step % _SAVE_EVERY == 0):
                _store(training, step, value)
            if step < training.steps:
                value = _step(training, step)
                bar.set_postfix(loss=f"{value:.3f}", refresh=False)
                bar.update()


def _step(training: Training, step: int) -> float:
    for group in training.optimizer.param_groups:
        group["lr"] = training.rate(step)
    loss = training.loss(step)
    training.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if training.clip is not None:
        torch.nn.utils.clip_grad_norm_(training.parameters, training.clip)
    training.optimizer.step()
    value = float(loss.detach())
    if value != value:
        raise FloatingPointError(
            f"The loss must stay finite, but it is NaN after step {step}. Lower the learning rate."
        )
    return value


def _store(training: Training, step: int, value: float) -> None:
    if training.state is None:
        return
    held = {f"parameter.{place}": each for place, each in enumerate(training.parameters)}
    for place, values in training.optimizer.state_dict()["state"].items():
        held |= {
            f"optimizer.{place}.{name}": each
            for name, each in values.items()
            if isinstance(each, Tensor)
        }
    content = {name: each.detach().cpu().contiguous() for name, each in held.items()}
    save_tensors(training.state, content, {"step": str(step), "loss": repr(value)})


def load_state(path: Path, training: Training) -> tuple[int, float]:
    """Puts a stored state into the parameters and the optimizer; its step and loss.

    Raises:
        ValueError: if the state is of other parameters, or damaged.
    """
    content, metadata = load_tensors(path)
    if not {"step", "loss"} <= metadata.keys():
        raise ValueError(
            f"{path} must say which step it is of, but it does not. Delete it, and training begins anew."
        )
    own = {f"parameter.{place}": each for place, each in enumerate(training.parameters)}
    stored = {name: each.shape for name, each in content.items() if name.startswith("parameter.")}
    if stored != {name: each.shape for name, each in own.items()}:
        raise ValueError(
            f"The state must be of the same parameters, got another model's in {path}. Use another "
            "folder."
        )
    state: dict[int, dict[str, Any]] = {}
    for name, each in content.items():
        kind, place, *rest = name.split(".")
        if kind == "optimizer":
            state.setdefault(int(place), {})[rest[0]] = each
    with torch.no_grad():
        for name, each in own.items():
            each.copy_(content[name])
    groups = training.optimizer.state_dict()["param_groups"]
    training.optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(metadata["step"]), float(metadata["loss"])


def log_spaced(steps: int, *, per_octave: int = 1) -> tuple[int, ...]:
    """0, 1, 2, 4, ... and the last step, with some between if asked for.

    Examples:
        >>> log_spaced(100)
        (0, 1, 2, 4, 8, 16, 32, 64, 100)
    """
    found = {0, steps}
    power = 0.0
    while 2**power < steps:
        found.add(round(2**power))
        power += 1 / per_octave
    return tuple(sorted(found))
