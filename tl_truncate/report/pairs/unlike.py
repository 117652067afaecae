"""In what two runs differ beside what is compared, in words."""

from collections.abc import Sequence

from tl_truncate.experiments.sweep.grid import setting_key
from tl_truncate.experiments.sweep.names import fits_of, setting_names
from tl_truncate.report.pairs.sides import CHOSEN, Side, asked, same_globals
from tl_truncate.runs.record import Record, bos_words
from tl_truncate.surgery.cut import SiteCut
from tl_truncate.surgery.spoken import listed

_FEW = 6


def unlike(one: Side, other: Side, settings: Sequence[str], *, is_paired: bool) -> list[str]:
    """What else differs between two sides: no difference of unlike things goes without a word.

    Args:
        one: the first.
        other: the other.
        settings: that are compared.
        is_paired: whether both asked the same prompts for the same right answers.
    """
    records = one.record, other.record
    told = []
    if not is_paired:
        counts = f"{records[0].n_prompts} and {records[1].n_prompts} of {records[0].task}"
        both = set(asked(one, "prompt", "in_context")) & set(asked(other, "prompt", "in_context"))
        shared = f", {len(both)} in both" if both else ""
        told.append(f"the prompts are not the same ({counts}{shared}), so that intervals are unpaired")
    told += _other_globals(one, other)
    bos = [bos_words(each.prepend_bos) for each in records]
    if records[0].prepend_bos != records[1].prepend_bos:
        told.append(f"one side is {bos[0]} a BOS, the other {bos[1]}")
    told += _other_cuts("cut", one.own, other.own) if CHOSEN in settings else []
    around = [[SiteCut.from_json(dict(each)) for each in record.cuts] for record in records]
    told += _other_cuts("cut all along", *around)
    told += _other_hooks("hooks", *(each.hooks for each in records))
    told += _other_hooks(
        "hooks of PyTorch's that change what passes", *(each.acting for each in records)
    )
    told += _other_weights(*records)
    if CHOSEN not in settings and _fits(one, settings) != _fits(other, settings):
        told.append("what cuts were fitted on is not the same")
    return told


def _fits(side: Side, settings: Sequence[str]) -> list[tuple[str, ...]]:
    """What a side's cuts were fitted on, of the settings that both have."""
    cuts = [side.cuts[name] for name in settings if name in side.cuts]
    return [fits_of(cut) for cut in cuts or sorted(side.own, key=lambda cut: str(cut.site))]


def _other_cuts(what: str, one: Sequence[SiteCut], other: Sequence[SiteCut]) -> list[str]:
    """Cuts of both sides where these differ; of a fit that is nothing else it is said elsewhere."""
    names = setting_names([[*one, *other]])
    sides = [[names[setting_key(cut)] for cut in cuts] for cuts in (one, other)]
    if sorted(sides[0]) == sorted(sides[1]):
        return []
    told = [listed(side, _FEW) if side else "nothing" for side in sides]
    return [f"{what}: {told[0]} on one side, {told[1]} on the other"]


def _other_hooks(what: str, one: Sequence[str], other: Sequence[str]) -> list[str]:
    """Where both models carried hooks that are no cuts; what a hook does is in no record."""
    if not one and not other:
        return []
    told = [f"{what} at {listed(list(side), _FEW)}" if side else f"no {what}" for side in (one, other)]
    if tuple(one) == tuple(other):
        return [f"{told[0]} on both sides, and no record says whether they do the same"]
    return [f"{told[0]} on one side, {told[1]} on the other"]


def _other_weights(one: Record, other: Record) -> list[str]:
    """In what two models differ that may have one name."""
    names = {"model_class": "class", "dtype": "dtype", "weights": "weights"}
    pairs = {said: (getattr(one, name), getattr(other, name)) for name, said in names.items()}
    told = [
        f"{said}: {values[0]} and {values[1]}" for said, values in pairs.items() if len({*values}) > 1
    ]
    if not told and one.model == other.model and one.weights_hash != other.weights_hash:
        return ["the weights are not the same, though the models have one name"]
    return told


def _other_globals(one: Side, other: Side) -> list[str]:
    """Whose global answers there are, where that is not alike."""
    if one.record.has_global != other.record.has_global:
        return ["one side has global answers, the other has none, so that their metrics are left away"]
    if one.record.has_global and not same_globals(one, other):
        return ["the global answers are not the same, so that their metrics are left away"]
    return []
