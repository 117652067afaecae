"""A fit that lies in a file, for cuts that are written down."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor


class Fit(Protocol):
    """What was fitted, known by its content."""

    @property
    def hash(self) -> str:
        """A short hash of all sums."""


AnyFit = TypeVar("AnyFit", bound=Fit)


@dataclass(frozen=True)
class Reference:
    """A fit by the hash of its content and, if it was saved, its file.

    What a cut's JSON holds in place of the fit itself, which is read when it is needed.
    """

    hash: str
    path: str | None = field(compare=False)

    def __hash__(self) -> int:
        return hash(self.hash)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dict(hash=self.hash, path=self.path)

    def follow(self, load: Callable[[str | os.PathLike[str]], AnyFit], told: str) -> AnyFit:
        """The fit.

        Args:
            load: reads a file.
            told: what it is, such as `token means`.

        Raises:
            ValueError: if it was never saved, or the file holds another now.
        """
        if self.path is None:
            raise ValueError(
                f"The {told} {self.hash} of this cut must have been saved to be used again, but "
                "they were not. Fit them again, save them and make the cut anew."
            )
        found = load(self.path)
        if found.hash != self.hash:
            raise ValueError(
                f"The {told} in {self.path} must be those that the cut was made with, {self.hash}, "
                f"got {found.hash}."
            )
        return found


def hash_of(told: str, tensors: Mapping[str, Tensor]) -> str:
    """A short hash of tensors by their names, and of what else makes a fit what it is.

    Examples:
        >>> hash_of("2.0", {"a": torch.zeros(1)}) == hash_of("2.0", {"b": torch.zeros(1)})
        False
    """
    digest = hashlib.blake2b(told.encode(), digest_size=8)
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
