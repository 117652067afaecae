"""How each checkpoint's MLP outputs are divided: means are fitted anew for each model."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.decompose.parts import Method
from tl_truncate.decompose.split import Split
from tl_truncate.experiments.scoring.memory import corpus_rows_that_fit
from tl_truncate.experiments.screening.part_attribution import (
    PartAttribution,
    attribute_split,
    parts_that_fit,
)
from tl_truncate.tasks.encode import EncodedTask
from tl_truncate.tasks.task import Task
from tl_truncate.weights.keep import Keep, as_keep
from tl_truncate.weights.locate import find_sites

# Most rows of the corpus in a pass: they are longer than most prompts.
_CORPUS_ROWS = 16


@dataclass(frozen=True, eq=False)
class Parts:
    """What to divide at each checkpoint.

    Args:
        corpus: texts, or a tensor or lists of tokens, that `token_mean` is fitted on at each checkpoint;
            without the task's prompts. The same at all of them, so no iterator.
        method: as for `decompose_mlp`.
        layers: all by default.
        kappa: of the means.
        from_layer: for `context_ablation`.
        keep: for `spectral`.
        max_tokens: of the corpus' rows.

    Raises:
        ValueError: if `token_mean` has no corpus, or the method is unknown.

    Examples:
        >>> Parts(["Mary gave a drink to John"]).to_json()["method"]
        'token_mean'
    """

    corpus: Sequence[Any] | Tensor = ()
    method: Method = "token_mean"
    layers: Sequence[int] | None = None
    kappa: float = 2.0
    from_layer: int = 0
    keep: Keep | int | float = 0.1
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(
                f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}."
            )
        if self.method == "token_mean" and (isinstance(self.corpus, str) or not len(self.corpus)):
            raise ValueError(
                "corpus must be texts or rows of tokens for method='token_mean', got "
                f"{self.corpus!r:.40}. Give a list, which is read again at each checkpoint."
            )
        object.__setattr__(self, "keep", as_keep(self.keep))

    def attribute(
        self,
        model: Any,
        task: Task,
        *,
        batch_size: int = 32,
        max_memory: int | None = None,
        **options: Any,
    ) -> PartAttribution:
        """The attribution of one checkpoint's parts on a task."""
        means = None
        if self.method == "token_mean":
            rows = self._corpus_rows(model, batch_size, max_memory)
            means = TokenMeans.fit(
                model,
                self.corpus,
                layers=self.layers,
                kappa=self.kappa,
                shares=False,
                held_out=0.0,
                max_tokens=self.max_tokens,
                batch_size=rows,
                progress=False,
            )
        split = Split(self.method, means, self.from_layer, self.keep)
        options |= dict(batch_size=batch_size, max_memory=max_memory)
        return attribute_split(model, task, split, self.layers, **options)

    def require_room(
        self, model: Any, encoded: EncodedTask, *, batch_size: int, max_memory: int | None
    ) -> None:
        """Checks, before any pass, that the means and the parts fit into what memory is allowed.

        Raises:
            ValueError: if they do not.
        """
        if self.method == "token_mean":
            self._corpus_rows(model, batch_size, max_memory)
        layers = [site.layer for site in find_sites(model, "W_out", self.layers)]
        limits: dict[str, Any] = dict(batch_size=batch_size, max_memory=max_memory)
        parts_that_fit(model, encoded, self.method, layers, **limits)

    def _corpus_rows(self, model: Any, batch_size: int, max_memory: int | None) -> int:
        return corpus_rows_that_fit(
            model,
            self.corpus,
            layers=self.layers,
            max_tokens=self.max_tokens,
            batch_size=min(batch_size, _CORPUS_ROWS),
            max_memory=max_memory,
        )

    def to_json(self) -> dict[str, Any]:
        """The settings and a hash of the corpus, as plain data."""
        rows = self.corpus.tolist() if isinstance(self.corpus, Tensor) else list(self.corpus)
        assert isinstance(self.keep, Keep)
        return dict(
            method=self.method,
            layers=None if self.layers is None else list(self.layers),
            kappa=self.kappa,
            from_layer=self.from_layer,
            keep=self.keep.to_json(),
            max_tokens=self.max_tokens,
            corpus=hashlib.blake2b(repr(rows).encode(), digest_size=8).hexdigest(),
        )
