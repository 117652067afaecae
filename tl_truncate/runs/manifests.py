"""What a run computes, as plain data: when two runs are one, and in what they differ."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tl_truncate.weights.identity.provenance import versions

_SHOWN = 8
#: Of the manifest.
FORMAT = 1
#: In the manifest of a run of a model: what its weights were.
WEIGHTS = "weights_hash"
#: In the manifest: where the run went on under other circumstances, and which.
RESUMED = "resumed"
#: In the manifest: a hash of the numbers of all tokens that are read. Texts are others with another
#: tokenizer, and a corpus may be too long to be in a manifest.
TOKENS = "tokens_hash"
#: In the manifest: where the model carried hooks.
HOOKS = "hooks"
_VERSIONS = "versions"
#: In the manifest: what two manifests of one run may differ in.
CIRCUMSTANCES = (_VERSIONS, RESUMED)
# What earlier versions did not write: their runs are gone on with, as far as can be told.
_NOT_ALWAYS_THERE = (TOKENS, HOOKS, "texts_hash", "asked")


def make_manifest(kind: str, **facts: Any) -> dict[str, Any]:
    """What a run computes, as plain data: its kind, everything that its numbers depend on, versions.

    Examples:
        >>> manifest = make_manifest("recall", checkpoints=[0, 1])
        >>> manifest["format"], manifest["kind"], manifest["checkpoints"]
        (1, 'recall', [0, 1])
    """
    return {"format": FORMAT, "kind": kind, "versions": versions(), **facts}


def gone_on(
    found: dict[str, Any],
    manifest: Mapping[str, Any],
    *,
    free: Collection[str],
    grows: Collection[str],
    noted: Collection[str],
    after: int,
) -> dict[str, Any]:
    """The manifest of a run that is gone on with; `RunFolder.open` says what the names stand for.

    Args:
        found: what the folder says.
        manifest: what is asked for now, of the same run.
        free: names of what is asked for anew.
        grows: names of what both have.
        noted: names of what is noted where it changes.
        after: how many lines there were by then.
    """
    asked = {name: manifest[name] for name in (*free, *grows) if name in manifest}
    whole = {name: _union(found.get(name), manifest.get(name)) for name in grows}
    updated = {**found, **asked, **{name: each for name, each in whole.items() if each is not None}}
    changed = _changed(found, manifest, (*noted, _VERSIONS))
    if changed:
        updated[RESUMED] = [*found.get(RESUMED, []), {"after": after, **changed}]
    return updated


def common(own: Any, other: Any) -> Any:
    """What has to be the same of what may grow: entries of mappings that both have."""
    if isinstance(own, dict) and isinstance(other, dict):
        return {key: value for key, value in own.items() if key in other}
    return None


def _union(before: Any, now: Any) -> Any:
    """All entries once; of lists in the order of now, if that has them all."""
    if before is None or now is None:
        return now if before is None else before
    if isinstance(now, dict):
        return {**before, **now}
    if all(each in now for each in before):
        return now
    return [*before, *(each for each in now if each not in before)]


def _changed(
    found: Mapping[str, Any], wanted: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    """What is otherwise than when the run was last gone on with."""
    last = dict(found)
    for each in found.get(RESUMED, []):
        last |= each
    return {name: wanted[name] for name in names if name in wanted and wanted[name] != last.get(name)}


def untold(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """Names of what cannot be compared, since an earlier version wrote one of two manifests.

    Examples:
        >>> untold({"tokens_hash": "1f"}, {}), untold({"tokens_hash": "1f"}, {"tokens_hash": "2e"})
        ({'tokens_hash'}, set())
    """
    return {name for name in _NOT_ALWAYS_THERE if (name in one) != (name in other)}


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], one: str, other: str) -> str:
    """In what two manifests differ, with both values; nothing if they do not.

    Args:
        found: one of them.
        wanted: the other.
        one: where the first is.
        other: where the second is.

    Examples:
        >>> differences({"seed": 0}, {"seed": 1}, "in the folder", "now")
        'seed (0 in the folder, 1 now)'
    """
    different = [
        f"{path} ({_short(mine)} {one}, {_short(theirs)} {other})"
        for path, mine, theirs in _differences(found, wanted)
    ]
    more = f"; and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    return "; ".join(different[:_SHOWN]) + more


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Paths at which two manifests differ, with both values."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys([*found, *wanted]):
            path = f"{name}.{key}" if name else str(key)
            yield from _differences(found.get(key), wanted.get(key), path)
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(one, other, f"{name}[{place}]")
    elif found != wanted:
        yield name, found, wanted


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} entries"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
