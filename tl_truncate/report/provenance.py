"""Where a result comes from: what a manifest says, without the long lists in it."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tl_truncate.experiments.scoring.view import record_table
from tl_truncate.report.page import Section
from tl_truncate.runs.record import Record

_LONG = ("grid", "batches", "tasks", "task", "metrics", "checkpoints", "cuts", "resumed")


def provenance(manifest: Mapping[str, Any]) -> Markup:
    """A table of the model, its weights, versions, seeds, and the prompts' hashes."""
    facts = {name: value for name, value in manifest.items() if name not in _LONG}
    tasks = manifest.get("tasks") or [manifest[name] for name in ("task",) if name in manifest]
    for task in tasks.values() if isinstance(tasks, Mapping) else tasks:
        if isinstance(task, Mapping) and task.get("description"):
            facts[f"about {task['name']}"] = task["description"]
    return record_table(facts)


def where_section(record: Record) -> Section:
    """The last section of a page about one record."""
    return Section("provenance", "Where this comes from", provenance(record.to_json()))
