"""A sweep at each checkpoint: which sites and keeps, and where its run folder lies."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_truncate.experiments.scoring.metrics import Metric
from tl_truncate.experiments.sweep.grid import Control, check_controls, make_grid
from tl_truncate.experiments.sweep.options import SweepOptions
from tl_truncate.experiments.sweep.sweep import sweep_cuts
from tl_truncate.surgery.cut import Cuts, SiteCut
from tl_truncate.tasks.task import Task
from tl_truncate.weights.keep import Keep, as_keep
from tl_truncate.weights.keep.defaults import KEEPS
from tl_truncate.weights.site import Site


@dataclass(frozen=True, eq=False, kw_only=True)
class Grid:
    """What to sweep at each checkpoint, for `dynamics(..., grid=...)`; the options are those of `sweep`.

    Args:
        sites: W_in and W_out of every layer by default.
        keeps: made at every site.
        cuts: further settings; given without sites, they are the whole grid.
        controls: scored beside each cut.
        draws: of each control.
        metrics: in the table; those that the tasks have by default.

    Raises:
        ValueError: if a site, keep, control or metric reads otherwise.

    Examples:
        >>> Grid(sites=["blocks.1.mlp.W_in"], keeps=[0.1, 0.5]).to_json()["sites"]
        ['blocks.1.mlp.W_in']
    """

    sites: Sequence[Site | str] | None = None
    keeps: Sequence[Keep | int | float] = KEEPS
    cuts: Sequence[SiteCut] = ()
    controls: Sequence[Control] = ()
    draws: int | None = None
    metrics: Sequence[Metric] | None = None

    def __post_init__(self) -> None:
        if self.sites is not None:
            object.__setattr__(self, "sites", tuple(map(Site.parse, self.sites)))
        object.__setattr__(self, "keeps", tuple(map(as_keep, self.keeps)))
        object.__setattr__(self, "cuts", Cuts(self.cuts))
        check_controls(self.controls)
        SweepOptions(metrics=self.metrics)

    def to_json(self) -> dict[str, Any]:
        """The settings as plain data."""
        return dict(
            sites=None if self.sites is None else list(map(str, self.sites)),
            keeps=[as_keep(keep).to_json() for keep in self.keeps],
            cuts=[cut.to_json() for cut in self.cuts],
            controls=list(self.controls),
            draws=self.draws,
        )

    @property
    def key(self) -> str:
        """A short hash of the settings."""
        return _short(self.to_json())

    def cuts_of(self, model: Any, seed: int) -> list[SiteCut]:
        """All settings of one checkpoint.

        Raises:
            ValueError: if a site is not in the model, or a keep does not fit.
        """
        return make_grid(model, self.sites, self.keeps, self.controls, seed, self.cuts, self.draws)

    def sweep(self, model: Any, tasks: Sequence[Task], folder: Path, options: dict[str, Any]) -> None:
        """Sweeps one checkpoint in a run folder of its own, which is gone on with if it is there.

        Raises:
            ValueError: as for `sweep`.
        """
        wanted = SweepOptions(metrics=self.metrics, run_dir=folder, progress=False, **options)
        sweep_cuts(model, tasks, self.cuts_of(model, wanted.seed), wanted)


def place_of(step: int, tasks: Sequence[Task]) -> str:
    """Where a checkpoint's sweep of some tasks lies, within the folder of all sweeps.

    More sites and keeps are found in the same place; other tasks make another sweep.
    """
    return f"step{step}/{_short([[task.name, task.hash] for task in tasks])}"


def _short(data: Any) -> str:
    return hashlib.blake2b(json.dumps(data).encode(), digest_size=6).hexdigest()
