"""Which settings of two runs are one and the same, and what tells those apart that sound alike."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.spoken import said_cut

_FIT = {"hash", "path"}
_LONG = 60


def setting_names(runs: Sequence[Sequence[SiteCut]]) -> dict[str, str]:
    """By `setting_key`, a name for each cut of some runs: the same for the same setting, only for that.

    What a cut was fitted on is not looked at, since it differs between models; only where a run has two
    cuts that differ in nothing else. Names that words leave alike say what differs.

    Args:
        runs: the cuts of each.

    Examples:
        >>> site = "blocks.0.mlp.W_in"
        >>> runs = [[tlt.Cut(site, tlt.Components((0, 1)))], [tlt.Cut(site, tlt.Components((2, 3)))]]
        >>> len(set(setting_names(runs).values()))
        2
    """
    alike: Callable[[SiteCut], str] = _rule_key
    if any(len(set(map(_rule_key, cuts))) < len(set(map(setting_key, cuts))) for cuts in runs):
        alike = setting_key
    every = [cut for cuts in runs for cut in cuts]
    first = {alike(cut): cut for cut in reversed(every)}
    told = {key: said_cut(cut) for key, cut in first.items()}
    for name in set(told.values()):
        same = [key for key, each in told.items() if each == name]
        if len(same) > 1:
            data = [_flat(json.loads(key)) for key in same]
            parts = dict.fromkeys(part for each in data for part in each)
            differ = [part for part in parts if len({_text(each.get(part)) for each in data}) > 1]
            for key, each in zip(same, data, strict=True):
                told[key] = f"{name} ({_parts(each, differ)})"
    return {setting_key(cut): told[alike(cut)] for cut in every}


def fits_of(cut: SiteCut) -> tuple[str, ...]:
    """The hashes of what a cut was fitted on; none of most cuts."""
    return tuple(_hashes(cut.to_json()))


def _flat(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a cut is made of, the parts of its parts by their own names."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        inner = _flat(value) if isinstance(value, dict) and not _is_fit(value) else {}
        found |= inner if inner and not set(inner) & set(found) else {name: value}
    return found


def _parts(data: dict[str, Any], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {_short(_text(data.get(name)))}" for name in names)


def _short(text: str) -> str:
    if len(text) <= _LONG:
        return text
    return f"{text[: _LONG // 2]}… {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _rule_key(cut: SiteCut) -> str:
    return _text(_without_fits(cut.to_json()))


def _is_fit(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == _FIT


def _without_fits(value: Any) -> Any:
    if _is_fit(value):
        return "fitted"
    if isinstance(value, dict):
        return {name: _without_fits(each) for name, each in value.items()}
    return value


def _hashes(value: Any) -> Iterable[str]:
    if _is_fit(value):
        yield value["hash"]
    elif isinstance(value, dict):
        for each in value.values():
            yield from _hashes(each)
