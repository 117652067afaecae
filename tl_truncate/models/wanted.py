"""What is to be loaded, after all checks."""

from dataclasses import dataclass
from typing import Literal

import torch

Backend = Literal["bridge", "hooked"]


@dataclass(frozen=True)
class Wanted:
    """What to load, after all checks."""

    name: str
    local: bool
    revision: str | None
    dtype: torch.dtype
    device: torch.device | str | None
    raw: bool
