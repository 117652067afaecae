"""What a run of dynamics has told, from the lines of its folder: the histories of its tasks."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tl_truncate.experiments.screening.part_attribution import PartAttribution
from tl_truncate.experiments.training.history import History
from tl_truncate.experiments.training.kept import said_in, tasks_of, things
from tl_truncate.experiments.training.reading import FAILED, GRIDS, PARTS, UNCUT, Reading, said_of
from tl_truncate.runs.codec import read
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.tasks.task import Task


def dynamics_fields(
    manifest: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    run_dir: str | os.PathLike[str] | None,
    given: Mapping[str, Sequence[SiteCut]] | None = None,
) -> dict[str, Any]:
    """The fields of a result, from what a run folder holds, so far as the manifest asks for it.

    A step has several lines if cuts, tasks or parts were asked for later; what is there twice counts
    once. One that failed and was read later has not failed. `History` says what given cuts are for.
    """
    asked, cuts = tuple(manifest["checkpoints"]), tuple(manifest["cuts"])
    wanted = set(things(cuts, manifest.get(PARTS) is not None, manifest.get(GRIDS, ())))
    histories = {}
    for name, task in tasks_of(manifest).items():
        readings: dict[int, dict[str, Reading]] = {}
        parts: dict[int, PartAttribution] = {}
        swept: dict[int, tuple[str, ...]] = {}
        there: dict[int, set[str]] = {step: set() for step in asked}
        for line in lines:
            step, said = line["step"], said_of(line).get(name)
            if step not in asked or said is None:
                continue
            there[step].update(said_in(said))
            for cut, reading in read(dict[str, Reading], said["readings"]).items():
                if cut in (UNCUT, *cuts):
                    readings.setdefault(step, {}).setdefault(cut, reading)
            if PARTS in said and manifest.get(PARTS) is not None:
                parts.setdefault(step, read(PartAttribution, said[PARTS]))
            if manifest.get(GRIDS):
                for place in said.get(GRIDS, {}).values():
                    # Asked beside other tasks, a grid is a sweep of its own, in a place of its own.
                    known = swept.get(step, ())
                    swept[step] = known if place in known else (*known, place)
        missing = tuple(step for step in asked if not wanted <= there[step])
        resamples = manifest.get("resamples", 2000)
        histories[name] = History(
            read(Task, task),
            readings,
            asked,
            cuts,
            missing,
            parts,
            swept,
            made=manifest["cuts"],
            given=given or {},
            resamples=resamples,
        )
    lacking = {step for history in histories.values() for step in history.missing}
    failed = {line["step"]: line[FAILED] for line in lines if FAILED in line}
    return dict(
        histories=histories,
        asked=asked,
        manifest=manifest,
        failed={step: told for step, told in sorted(failed.items()) if step in lacking},
        run_dir=run_dir,
    )
