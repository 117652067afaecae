"""How a run folder knows a task again: by how it is asked, what is asked, and the code that makes it."""

import hashlib
import inspect
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

_KNOWN = ("lm_eval.api.", "abc.")  # whose versions are in the manifest


def task_key(tasks: Mapping[str, Any], limit: int | float | None) -> str:
    """A hash of tasks: their settings, the questions, the examples in front, and their Python files.

    Random numbers may be drawn: the harness makes a task's questions again whenever they are asked for.

    Args:
        tasks: of the harness, by name.
        limit: of the questions that are asked.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, task in sorted(tasks.items()):
        for part in (name, task.dump_config(), *_documents(task, limit)):
            digest.update(_text(part).encode() + b"\n")
        for file in _files(task):
            digest.update(file.name.encode() + b"\n" + file.read_bytes())
    return digest.hexdigest()[:16]


def _text(part: Any) -> str:
    return re.sub(r"0x[0-9a-f]+", "", json.dumps(part, sort_keys=True, default=str))


def _documents(task: Any, limit: int | float | None) -> Iterator[Any]:
    """Those that are asked, and those of which examples are chosen."""
    asked, count = task.eval_docs, limit
    if count is not None and count < 1:
        count = math.ceil(len(asked) * count)
    yield from islice(asked, None if count is None else int(count))
    if task.get_config("num_fewshot"):
        yield "in front"
        yield from _given(task.fewshot_docs())


def _given(documents: Iterable[Any] | None) -> Iterable[Any]:
    return () if documents is None else documents


def _files(task: Any) -> list[Path]:
    """The Python files in the folders of a task's functions, which may call one another."""
    places = (vars(task.config), *(dict(vars(kind)) for kind in type(task).__mro__))
    sources = {Path(each.__code__.co_filename) for each in _functions(places)}
    folders = {source.parent for source in sources if source.is_file()}
    return sorted(file for folder in folders for file in folder.glob("*.py"))


def _functions(value: Any) -> Iterator[Any]:
    """The functions in settings; not those of the harness itself."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _functions(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _functions(each)
    elif isinstance(value, partial):
        yield from _functions([value.func, value.args, value.keywords])
    elif isinstance(value, type):
        yield from _functions(dict(vars(value)))
    elif inspect.isfunction(value) and not f"{value.__module__}.".startswith(_KNOWN):
        yield value
    elif hasattr(value, "__dataclass_fields__"):
        yield from _functions(vars(value))
