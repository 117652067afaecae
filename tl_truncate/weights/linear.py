"""One linear of a model: `y = x W + b`, with the hook points around it.

The weight and the bias are read anew at each use: `model.to(...)` replaces parameters, and a copy
taken earlier would be stale.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tl_truncate.weights.holding.offloaded import execution_device
from tl_truncate.weights.site import Site
from tl_truncate.weights.stored import Stored


@dataclass(frozen=True)
class Point:
    """A hook point of a model and the name under which it is found there."""

    name: str
    module: nn.Module


@dataclass(frozen=True)
class Argument:
    """An argument of a module's call, by its name; the first one where it is given without."""

    module: nn.Module
    name: str


@dataclass(frozen=True)
class Linear:
    """One site of one model.

    `shape` is `(n_in, n_out)`, `weight()` `[n_in, n_out]` and `bias()` `[n_out]` or None, all of the
    site alone: sliced to the head where the site names one. W_O's bias belongs to no head. `live_bias()`
    has a gradient. `shape` and `dtype` are known without reading the weight, which takes a while where
    it is quantised or kept on disk.

    `output` and `input` are the hook points at y and x (HookedTransformer has none at some inputs, where
    `given` is the argument that is x), `returns` the module that returns y, where that is not the hook
    point alone; `result` is the hook point of W_O's per-head outputs, which `uses_result()` says are
    computed. `comes_whole()` says whether y is there as one `x W + b` of the model's own heads, so that
    a projection of it is exact: with an input for each head (path patching), or key and value heads
    repeated, it is not.
    """

    site: Site
    shape: tuple[int, int]
    stored: Stored
    weight: Callable[[], Float[Tensor, "n_in n_out"]]
    live_bias: Callable[[], Float[Tensor, " n_out"] | None]
    output: Point
    input: Point | None
    given: Argument | None
    result: Point | None
    returns: nn.Module | None
    n_heads: int
    uses_result: Callable[[], bool]
    comes_whole: Callable[[], bool]

    def bias(self) -> Float[Tensor, " n_out"] | None:
        """The bias that is added at y, without its gradient."""
        found = self.live_bias()
        return None if found is None else found.detach()

    @property
    def dtype(self) -> torch.dtype:
        """Precision of `weight()`."""
        return self.stored.dtype

    @property
    def device(self) -> torch.device:
        """Where a pass multiplies by it."""
        raw = self.stored.raw
        return raw.device if not raw.is_meta else execution_device(self.stored.module) or raw.device

    @property
    def is_quantised(self) -> bool:
        """Whether the model multiplies by it in a kernel of its own, which rounds."""
        return self.stored.quantised is not None

    @property
    def part(self) -> tuple[slice, slice]:
        """The rows and columns of the matrix of all heads that are the site's."""
        every = slice(None)
        if self.site.head is None:
            return every, every
        own = slice(self.site.head * self.d_head, (self.site.head + 1) * self.d_head)
        return (own, every) if self.site.matrix == "W_O" else (every, own)

    @property
    def d_head(self) -> int:
        """Width of one head; of an MLP matrix nothing."""
        return self.shape[0] if self.site.matrix == "W_O" else self.shape[1]

    @property
    def writes_one_head(self) -> bool:
        """Whether the site is one head of W_O, whose output is only seen summed with the others."""
        return self.site.matrix == "W_O" and self.site.head is not None


def make_linear(
    site: Site,
    *,
    stored: Stored,
    whole_bias: Callable[[], Tensor | None],
    output: Point,
    input: Point | None,
    given: Argument | None,
    result: Point | None,
    returns: nn.Module | None,
    n_heads: int,
    uses_result: Callable[[], bool],
    comes_whole: Callable[[], bool],
) -> Linear:
    """A site's linear from the whole matrix, `[n_in, n_out]` with all heads, and the whole bias.

    Raises:
        ValueError: if the site's head is out of range, or the weight holds no numbers to factor.
    """
    if site.head is not None and site.head >= n_heads:
        kind = "key/value heads" if site.matrix in ("W_K", "W_V") else "heads"
        raise ValueError(
            f"The head of {site} must be in 0..{n_heads - 1}: {site.matrix} has {n_heads} {kind} in "
            f"this model, got head {site.head}."
        )

    def of_site(whole: Tensor) -> Tensor:
        if site.head is None:
            return whole
        if site.matrix == "W_O":
            return whole[head_slice(site, whole.shape[0], n_heads)]
        return whole[:, head_slice(site, whole.shape[1], n_heads)]

    def live_bias() -> Tensor | None:
        whole = whole_bias()
        if whole is None or site.head is None:
            return whole
        if site.matrix == "W_O":
            return None
        return whole[head_slice(site, whole.shape[0], n_heads)]

    problem = stored.problem()
    if problem is not None:
        raise ValueError(f"The weight of {site} must {problem}")
    n_in, n_out = of_site(torch.empty(stored.shape, device="meta")).shape
    return Linear(
        site=site,
        shape=(n_in, n_out),
        stored=stored,
        weight=lambda: of_site(stored.matrix().detach()),
        live_bias=live_bias,
        output=output,
        input=input,
        given=given,
        result=result,
        returns=returns,
        n_heads=n_heads,
        uses_result=uses_result,
        comes_whole=comes_whole,
    )


def head_slice(site: Site, size: int, heads: int) -> slice:
    """The columns (rows for W_O) of a joint attention matrix that belong to the site."""
    if site.head is None:
        return slice(0, size)
    width = size // heads
    return slice(site.head * width, (site.head + 1) * width)


def where_float64_is(tensor: Tensor) -> Tensor:
    """The tensor on a device that has float64, which mps has not."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision to compute in: float64 stays, everything else is done in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
