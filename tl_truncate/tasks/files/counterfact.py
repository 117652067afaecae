"""CounterFact, from a file of one's own."""

import json
import os
import random
from pathlib import Path
from typing import Any

from tl_truncate.checks import positive
from tl_truncate.weights.files import as_path


def read_counterfact(
    path: str | os.PathLike[str],
    *,
    n: int | None = None,
    seed: int = 0,
    paraphrases: bool = False,
    global_: str | None = None,
) -> dict[str, Any]:
    """Reads the facts of a CounterFact file, as the arguments of a task; nothing is fetched.

    Without target_new in the file there is no global answer, unless one is given.

    Raises:
        ValueError: if the file is no CounterFact file, or has fewer facts than asked for.
    """
    rows = _read(as_path(path))
    if n is not None and positive("n", n) > len(rows):
        raise ValueError(f"n must be at most {len(rows)}, the facts in {path}, got {n}.")
    if n is not None:
        rows = random.Random(f"counterfact {seed}").sample(rows, n)
    examples: dict[str, tuple[str, str | None]] = {}
    for row in rows:
        rewrite = row["requested_rewrite"]
        prompts = row.get("paraphrase_prompts", []) if paraphrases else []
        for prompt in prompts or [rewrite["prompt"].replace("{}", rewrite["subject"])]:
            other = _other(rewrite) if global_ is None else global_
            examples.setdefault(prompt.rstrip(), (f" {rewrite['target_true']['str'].strip()}", other))
    others = [other for _, other in examples.values()]
    return dict(
        name="counterfact",
        prompts=list(examples),
        in_context=[true for true, _ in examples.values()],
        global_=None if None in others else others,
        scoring="sequence",
        description=f"{len(rows)} facts of {Path(path).name}{', paraphrased' if paraphrases else ''}",
    )


def _other(rewrite: dict[str, Any]) -> str | None:
    """The file's false alternative, if it has one."""
    return f" {rewrite['target_new']['str'].strip()}" if "target_new" in rewrite else None


def _read(path: Path) -> list[dict[str, Any]]:
    rows = json.loads(path.read_text())
    try:
        for row in rows:
            rewrite = row["requested_rewrite"]
            _ = rewrite["prompt"], rewrite["subject"]
            _ = rewrite["target_true"]["str"], _other(rewrite)
    except (KeyError, TypeError, IndexError):
        raise ValueError(
            f"{path} must be a CounterFact file, a list of records with requested_rewrite (prompt, "
            "subject, target_true.str and, if they are to have one, target_new.str), got other content."
        ) from None
    lacking = [place for place, row in enumerate(rows) if "target_new" not in row["requested_rewrite"]]
    if 0 < len(lacking) < len(rows):
        raise ValueError(
            f"All facts of {path} must have target_new, or none, got {len(lacking)} without, the first "
            f"at {lacking[0]}. Use global_=' the' to give all the same."
        )
    if not rows:
        raise ValueError(f"{path} must hold at least one fact, got none.")
    return list(rows)
