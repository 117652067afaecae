"""What has been done to a model's weights since training: folding, centring, compatibility mode.

Rank reduction commutes with none of it: the spectrum of a folded or centred matrix is another
spectrum, and LASER's numbers are about the raw one.
"""

import warnings
import weakref
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tl_truncate.weights.holding.offloaded import real
from tl_truncate.weights.holding.quantised import kinds_of
from tl_truncate.weights.locate import available, locate, n_layers
from tl_truncate.weights.site import Site

# Enough rows to tell centring from chance, in a look that stays cheap on large models.
_ROWS = 256
_warned: "weakref.WeakSet[Any]" = weakref.WeakSet()
_seen_raw: "weakref.WeakKeyDictionary[Any, tuple[Any, ...]]" = weakref.WeakKeyDictionary()


class ProcessedWeightsWarning(UserWarning):
    """A cut was made on weights that are not the trained ones."""


@dataclass(frozen=True)
class Processing:
    """What was found to have been done to the weights; `is_raw` if nothing was."""

    folded_layer_norm: bool
    centred_writing_weights: bool
    folded_value_biases: bool
    compatibility_mode: bool
    quantised: tuple[str, ...] = ()

    @property
    def is_raw(self) -> bool:
        """Whether nothing was folded or centred (compatibility mode alone only adds names).

        Quantised weights are themselves: what a cut is of is the weight that they stand for.
        """
        return not (self.folded_layer_norm or self.centred_writing_weights or self.folded_value_biases)

    def __str__(self) -> str:
        found = [name.replace("_", " ") for name, value in asdict(self).items() if value is True]
        found += [f"quantised by {kind}" for kind in self.quantised]
        return "raw" if not found else ", ".join(found)


def processing(model: Any) -> Processing:
    """Detects weight processing from the configuration and from the weights themselves.

    Centring is measured (the rows of every W_out have mean zero to rounding), value-bias folding too
    (all value biases exactly zero while output biases are not); LayerNorm folding is what the model's
    normalisation type, or its own unit weights, say.

    Args:
        model: a HookedTransformer or TransformerBridge.

    Returns:
        What was found.
    """
    return Processing(
        folded_layer_norm=_folded_layer_norm(model),
        centred_writing_weights=_all_layers(model, "W_out", _is_centred),
        folded_value_biases=_all_layers(model, "W_V", _has_zero_bias)
        and _all_layers(model, "W_O", _has_bias),
        compatibility_mode=bool(getattr(model, "compatibility_mode", False)),
        quantised=kinds_of(model),
    )


def warn_if_processed(model: Any) -> None:
    """Warns, once for each model, that a cut of processed weights is not a cut of the trained ones."""
    state = _state(model)
    if model in _warned or _seen_raw.get(model) == state:
        return
    found = processing(model)
    if found.is_raw:
        _seen_raw[model] = state
    else:
        _warned.add(model)
        warnings.warn(
            f"The weights of this model are processed ({found}). Rank reduction does not commute with "
            "processing, so cuts differ from cuts of the trained weights. Load the raw weights: "
            "tlt.load_model(name), HookedTransformer.from_pretrained_no_processing(name), or a "
            "TransformerBridge without enable_compatibility_mode().",
            ProcessedWeightsWarning,
            stacklevel=3,
        )


def _state(model: Any) -> tuple[Any, ...]:
    """Changes whenever the weights are processed: cheap to look at before every cut."""
    weight = _raw(model, Site(0, "W_out")) if "W_out" in available(model, 0) else None
    # accelerate leaves an inference tensor, without a version, after a pass in that mode.
    version = None if weight is None or weight.is_inference() else weight._version
    tensor = None if weight is None else (weight.data_ptr(), version)
    return (bool(getattr(model, "compatibility_mode", False)), tensor)


def _folded_layer_norm(model: Any) -> bool:
    kind = str(getattr(model.cfg, "normalization_type", None) or "")
    if kind.lower() in ("lnpre", "rmspre"):
        # A toy made from a configuration may have parameter-free norms by design; nothing was folded.
        return getattr(model.cfg, "model_name", None) not in (None, "custom", "native")
    if not getattr(model, "compatibility_mode", False):
        return False
    weights = [weight for block in model.blocks if (weight := _norm_weight(block)) is not None]
    return bool(weights) and all(bool((weight == 1).all()) for weight in weights)


def _norm_weight(block: Any) -> Tensor | None:
    for name in ("weight", "w"):
        norm = getattr(block, "ln1", None)
        weight = None if norm is None else real(norm, name)
        if weight is not None:
            return weight.detach()
    return None


def _all_layers(model: Any, matrix: Any, test: Any) -> bool:
    layers = [layer for layer in range(n_layers(model)) if matrix in available(model, layer)]
    return bool(layers) and all(test(model, Site(layer, matrix)) for layer in layers)


def _is_centred(model: Any, site: Site) -> bool:
    weight = _weight(model, site)
    if weight is None:
        return False
    dtype, weight = weight.dtype, weight[:_ROWS].float()
    size = weight.abs().mean()
    rounding = 4 * torch.finfo(dtype).eps
    return bool(size > 0) and bool(weight.mean(-1).abs().max() < rounding * size)


def _raw(model: Any, site: Site) -> Tensor | None:
    try:
        return locate(model, site).stored.raw
    except ValueError:  # refused for surgery, so nothing is cut there
        return None


def _weight(model: Any, site: Site) -> Tensor | None:
    try:
        return locate(model, site).weight()
    except ValueError:  # refused for surgery, so nothing is cut there
        return None


def _has_zero_bias(model: Any, site: Site) -> bool:
    if _weight(model, site) is None:
        return False
    bias = locate(model, site).bias()
    return bias is not None and bool((bias == 0).all())


def _has_bias(model: Any, site: Site) -> bool:
    if _weight(model, site) is None:
        return False
    bias = locate(model, site).bias()
    return bias is not None and bool((bias != 0).any())
