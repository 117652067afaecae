"""Which training steps of a model there are weights of."""

from collections.abc import Sequence
from pathlib import Path

#: Training steps at which the weights of each Pythia model were published.
PYTHIA_STEPS: tuple[int, ...] = (0, *(2**i for i in range(10)), *range(1000, 143_001, 1000))
NANO_MODEL = "nano-pythia"


def checkpoint_steps(name: str) -> tuple[int, ...]:
    """The training steps of which there are weights.

    Args:
        name: `nano-pythia`, a folder with `step0`, `step1`, ..., or a Pythia model of the hub.

    Raises:
        ValueError: if the name has no checkpoints.

    Examples:
        >>> len(checkpoint_steps("pythia-70m"))
        154
    """
    folder = folder_of(name)
    if not folder.is_dir():
        if hub_name(name).lower().startswith("eleutherai/pythia"):
            return PYTHIA_STEPS
        raise ValueError(
            f"Checkpoints must be a Pythia model's, nano-pythia's or a local folder's, got {name!r}."
        )
    found = [path.name.removeprefix("step") for path in folder.glob("step*")]
    steps = tuple(sorted(int(step) for step in found if step.isdigit()))
    if not steps:
        raise ValueError(f"A folder of checkpoints must hold step0, step1, ..., got {name!r} without.")
    return steps


def require_checkpoints(name: str, steps: Sequence[int]) -> list[int]:
    """The steps, if there are weights of all of them.

    Raises:
        ValueError: if there are none of some.
    """
    known = checkpoint_steps(name)
    missing = sorted(set(steps) - set(known))
    if missing:
        shown = known if len(known) <= 20 else (*known[:10], "...", known[-1])
        raise ValueError(
            f"The checkpoints of {name!r} must be among {', '.join(map(str, shown))}; got "
            f"{', '.join(map(str, missing[:5]))}."
        )
    return list(steps)


def folder_of(name: str) -> Path:
    """The folder that a name stands for, whether there is one or not."""
    return (
        Path(__file__).parent / "toys" / "nano" / NANO_MODEL
        if name == NANO_MODEL
        else Path(name).expanduser()
    )


def hub_name(name: str) -> str:
    """The name on the hub; for Pythia the short one will do."""
    return f"EleutherAI/{name}" if name.startswith("pythia-") else name
