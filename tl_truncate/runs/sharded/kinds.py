"""How runs of one kind are told apart and joined."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RunKind:
    """How runs of one kind are told apart and joined.

    Attributes:
        name: the kind in the manifest.
        wanted: names of all that a manifest asks for.
        told: names of what a line says.
        passed_over: names of what cannot be had, as a line says. They are not there, but no shard has to
            be waited for because of them.
        free, grows, noted: as for `RunFolder.open`.
        alike: of what is free or noted, that in which shards must agree.
        require_alike: raises where lines do not belong to one run, which a manifest does not tell; it is
            given a word on what to do.
    """

    name: str
    wanted: Callable[[Mapping[str, Any]], Sequence[str]]
    told: Callable[[Mapping[str, Any]], Sequence[str]]
    passed_over: Callable[[Mapping[str, Any]], Sequence[str]] = lambda line: ()
    free: Collection[str] = ()
    grows: Collection[str] = ()
    noted: Collection[str] = ()
    alike: Collection[str] = ()
    require_alike: Callable[[Sequence[Mapping[str, Any]], str], None] = lambda lines, remedy: None

    @property
    def may_differ(self) -> dict[str, Any]:
        """What a run may be gone on with."""
        return dict(free=self.free, grows=self.grows, noted=self.noted)
