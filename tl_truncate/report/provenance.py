"""Where a result comes from: what a manifest says, without the long lists in it."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tl_truncate.experiments.scoring.view import record_table
from tl_truncate.report.page import Section
from tl_truncate.runs.record import Record

_LONG = (
    "grid",
    "batches",
    "tasks",
    "task",
    "metrics",
    "checkpoints",
    "cuts",
    "resumed",
    "about",
    "share",
)


def provenance(manifest: Mapping[str, Any]) -> Markup:
    """A table of the model, its weights, versions, seeds, and the prompts' hashes."""
    facts = {name: value for name, value in manifest.items() if name not in _LONG}
    tasks = manifest.get("tasks") or [manifest[name] for name in ("task",) if name in manifest]
    for task in tasks.values() if isinstance(tasks, Mapping) else tasks:
        told = _about(task) if isinstance(task, Mapping) else ""
        if told:
            facts[f"about {task['name']}"] = told
    facts |= {f"about {name}": told for name, told in manifest.get("about", {}).items() if told}
    return record_table(facts)


def _about(task: Mapping[str, Any]) -> str:
    """Where its prompts come from, and what stands in front of them."""
    words, drawn = [task.get("description", "")], task.get("demonstrations")
    if drawn is not None:
        words.append(
            f"behind {len(drawn['prompts'])} of them, answered ({drawn['reserved']} set aside, drawn "
            f"with seed {drawn['seed']}); {len(task['prompts'])} are tested"
        )
    return "; ".join(filter(None, words))


def where_section(record: Record) -> Section:
    """The last section of a page about one record."""
    return Section("provenance", "Where this comes from", provenance(record.to_json()))
