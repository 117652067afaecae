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

    Raises:
        ValueError: if the file is no CounterFact file, or has fewer facts than asked for.
    """
    rows = _read(as_path(path))
    if n is not None and positive("n", n) > len(rows):
        raise ValueError(f"n must be at most {len(rows)}, the facts in {path}, got {n}.")
    if n is not None:
        rows = random.Random(f"counterfact {seed}").sample(rows, n)
    examples: dict[str, tuple[str, str]] = {}
    for row in rows:
        rewrite = row["requested_rewrite"]
        prompts = row.get("paraphrase_prompts", []) if paraphrases else []
        for prompt in prompts or [rewrite["prompt"].replace("{}", rewrite["subject"])]:
            other = f" {rewrite['target_new']['str'].strip()}" if global_ is None else global_
            examples.setdefault(prompt.rstrip(), (f" {rewrite['target_true']['str'].strip()}", other))
    return dict(
        name="counterfact",
        prompts=list(examples),
        in_context=[true for true, _ in examples.values()],
        global_=[other for _, other in examples.values()],
        scoring="sequence",
        description=f"{len(rows)} facts of {Path(path).name}{', paraphrased' if paraphrases else ''}",
    )


def _read(path: Path) -> list[dict[str, Any]]:
    rows = json.loads(path.read_text())
    try:
        for row in rows:
            rewrite = row["requested_rewrite"]
            _ = rewrite["prompt"], rewrite["subject"]
            _ = rewrite["target_true"]["str"], rewrite["target_new"]["str"]
    except (KeyError, TypeError, IndexError):
        raise ValueError(
            f"{path} must be a CounterFact file, a list of records with requested_rewrite (prompt, "
            "subject, target_true.str, target_new.str), got other content."
        ) from None
    if not rows:
        raise ValueError(f"{path} must hold at least one fact, got none.")
    return list(rows)
