"""Which weights a fit is of, and whether a model has them."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tl_truncate.weights.holding.placement import model_dtype
from tl_truncate.weights.identity.content import content_key, weights_hash
from tl_truncate.weights.identity.provenance import of_model
from tl_truncate.weights.locate import locate
from tl_truncate.weights.processing import processing
from tl_truncate.weights.reading import as_stored
from tl_truncate.weights.site import Site

#: What two fits must have in common, of what is known of the weights, for their sums to be added.
OF_THE_WEIGHTS = ("model", "model_class", "dtype", "weights", "weights_hash")


class OtherWeightsWarning(UserWarning):
    """Token means are used on a site whose weight is not the one that they were fitted on."""


def origin_of(model: Any, sites: tuple[Site, ...]) -> dict[str, Any]:
    """The model, the hash of all its weights, and keys of the sites' own, as plain data."""
    keys = {str(site): _key(model, site) for site in sites}
    return {**of_model(model), "weights_hash": weights_hash(model), "site_keys": keys}


def _key(model: Any, site: Site) -> str:
    with as_stored():  # cuts at work are in the record by themselves
        return content_key(locate(model, site).weight())


def require_origin(
    model: Any, site: Site, width: int, record: Mapping[str, Any], *, told: str = "means"
) -> None:
    """Refuses a fit that cannot be of a model's site.

    Args:
        model: on which it is to be used.
        site: that it is of.
        width: of what was fitted.
        record: of the fit.
        told: what was fitted.

    Raises:
        ValueError: if the width is another, or the weights have been processed otherwise.
    """
    linear = locate(model, site)
    if width != linear.shape[1]:
        raise ValueError(
            f"The {told} must have the width of {site} in this model, {linear.shape[1]}, got {width}: "
            f"they are of {record.get('model')}. Fit them on this model."
        )
    require_processing(model, record.get("weights", "raw"), told=told)


def require_processing(model: Any, processed: str, *, told: str = "means") -> None:
    """Refuses what comes of weights that had been processed otherwise than a model's.

    Folding and centring change what a site writes, or what its components are.

    Raises:
        ValueError: if they had.
    """
    found, own = _processing(processed), _processing(str(processing(model)))
    if found != own:
        raise ValueError(
            f"The {told} must be of weights that have been processed as this model's, which are: "
            f"{own}, got {told} of weights that are: {found}. Fit them on this model as it is now."
        )


def require_same(told: str, pairs: Iterable[tuple[str, Any, Any]]) -> None:
    """Refuses to add what does not go together.

    Args:
        told: what is to be merged.
        pairs: of what they must agree in, with what either says.

    Raises:
        ValueError: if they do not agree.
    """
    for what, own, theirs in pairs:
        if own != theirs:
            raise ValueError(f"{told} must agree in {what} to be merged, got {own} and {theirs}.")


def of_the_weights(own: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What two records say of the weights and the options, for `require_same`."""
    for name in (*OF_THE_WEIGHTS, "options"):
        yield name, own.get(name), theirs.get(name)


def is_of_another_weight(model: Any, site: Site, record: Mapping[str, Any]) -> bool:
    """Whether a fit is known to be of another weight than a model's site has.

    In another precision the same weights cannot be told from others.
    """
    key = record.get("site_keys", {}).get(str(site))
    return key is not None and record.get("dtype") == _dtype(model) and key != _key(model, site)


def warn_of_another_weight(model: Any, site: Site, record: Mapping[str, Any]) -> None:
    """Says so: means of another checkpoint may be what is wanted, and may be a mistake."""
    if is_of_another_weight(model, site, record):
        warnings.warn(
            f"The means of {site} were fitted on another weight than this model has there (they are of "
            f"{record.get('model')}). Fit them on this model, unless this is what you want.",
            OtherWeightsWarning,
            stacklevel=2,
        )


def _dtype(model: Any) -> str:
    return str(model_dtype(model)).removeprefix("torch.")


def _processing(told: str) -> str:
    """Compatibility mode by itself only adds names."""
    found = [each for each in told.split(", ") if each not in ("raw", "compatibility mode")]
    return ", ".join(found) or "raw"
