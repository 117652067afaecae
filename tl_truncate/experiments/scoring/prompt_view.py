"""One prompt: which layers' parts push which tokens, position by position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from markupsafe import Markup

from tl_truncate import markup
from tl_truncate.decompose.decompose import decompose
from tl_truncate.decompose.means.token_means import TokenMeans
from tl_truncate.decompose.parts import PARTS, Method, MLPDecomposition
from tl_truncate.decompose.split import Split
from tl_truncate.markup import coloured_tokens
from tl_truncate.weights.keep import Keep


@dataclass(frozen=True, eq=False, repr=False)
class PromptView:
    """The MLPs' parts on one prompt.

    Attributes:
        prompt: the text.
        answers: texts by token number.
        layers: the decompositions.
    """

    prompt: str
    answers: dict[int, str]
    layers: dict[int, MLPDecomposition]
    _tokenizer: Any

    @property
    def frame(self) -> pd.DataFrame:
        """One row per (layer, position, part, answer): the logits that the part adds, in nats."""
        ids = list(self.answers)
        rows = []
        for layer, own in self.layers.items():
            found = own.logits(ids)
            for part, values in zip(PARTS, (found.global_, found.in_context), strict=True):
                for position, text in enumerate(own.texts[0]):
                    for place, answer in enumerate(self.answers.values()):
                        value = float(values[0, position, place])
                        rows.append((layer, position, text, part, answer, value))
        return pd.DataFrame(rows, columns=["layer", "position", "text", "part", "answer", "logits"])

    def pushed(
        self, layer: int, part: str = "global", *, position: int = -1, k: int = 5
    ) -> pd.DataFrame:
        """The tokens that a part pushes most, and those that it pushes down.

        Args:
            layer: of the MLP.
            part: `global` or `in_context`.
            position: in the prompt.
            k: tokens at each end.

        Returns:
            One row per token: text, logits (nats, centred).

        Raises:
            ValueError: if there is no such layer or part.
        """
        if layer not in self.layers or part not in PARTS:
            raise ValueError(
                f"The layer must be one of {', '.join(map(str, self.layers))} and the part one of "
                f"{', '.join(PARTS)}, got {layer!r} and {part!r}."
            )
        own = self.layers[layer]
        chosen = own.global_ if part == "global" else own.in_context
        values = own.readout.logits(chosen)[0, position]
        best, worst = values.topk(k), (-values).topk(k)
        ids = [*best.indices.tolist(), *worst.indices.tolist()[::-1]]
        return pd.DataFrame(
            {"token": [self._tokenizer.decode([i]) for i in ids], "logits": values[ids].tolist()},
            index=ids,
        )

    def to_html(self, answer: str | None = None) -> str:
        """The prompt once for each layer and part, each token coloured by what the part adds there to an
        answer: orange pushes it, blue pushes it down.

        Args:
            answer: all by default, below one another and in one scale of colours.

        Raises:
            ValueError: if it is none of the answers.
        """
        names = list(self.answers.values())
        if answer is not None and answer not in names:
            raise ValueError(f"The answer must be one of {names}, got {answer!r}.")
        chosen = names if answer is None else [answer]
        table = self.frame
        size = float(table.loc[table["answer"].isin(chosen), "logits"].abs().max()) or 1.0
        return markup.join(_coloured(table, each, size) for each in chosen)

    def _repr_html_(self) -> str:
        return self.to_html()

    def __str__(self) -> str:
        table = self.frame
        last = table[table["position"] == table["position"].max()]
        wide = last.pivot_table(index="layer", columns=["answer", "part"], values="logits", sort=False)
        return f"{self.prompt!r}: logits added at the last token\n{wide.to_string(float_format='%+.2f')}"

    def __repr__(self) -> str:
        return str(self)


def _coloured(table: pd.DataFrame, answer: str, size: float) -> Markup:
    """One answer's table, in the scale that it shares with the others."""
    table = table[table["answer"] == answer]
    rows = [
        (
            str(layer),
            str(part).replace("_", "-"),
            Markup(
                '<td style="font-family:monospace;white-space:pre-wrap;text-align:left">{}</td>'
            ).format(coloured_tokens(list(own["text"]), list(own["logits"]), size)),
        )
        for (layer, part), own in table.groupby(["layer", "part"], sort=False)
    ]
    caption = (
        f"Logits that each MLP's parts add to {answer!r} at each token; the strongest colour is "
        f"{size:.2f} nats"
    )
    return markup.table(["layer", "part", "tokens"], rows, caption=caption, texts=2)


def view_prompt(
    model: Any,
    prompt: str,
    answers: Sequence[str],
    *,
    method: Method = "token_mean",
    means: TokenMeans | None = None,
    layers: Sequence[int] | None = None,
    from_layer: int = 0,
    keep: Keep | int | float = 0.1,
    prepend_bos: bool | None = None,
) -> PromptView:
    """Which layers' global and in-context parts push which tokens, at each position of one prompt.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer.
        prompt: the text.
        answers: texts of one token each, such as `[" Mary", " the"]`.
        method: as for `decompose_mlp`.
        means: fitted, for `token_mean`.
        layers: all by default; with means, those that they are of.
        from_layer: for `context_ablation`.
        keep: for `spectral`.
        prepend_bos: overrides the model's default.

    Returns:
        The view: a table when printed, coloured tokens in a notebook, `.pushed(layer, part)`.

    Raises:
        ValueError: if an argument does not fit, or an answer is not one token.

    Examples:
        >>> view = tlt.view_prompt(model, "Mary gave a drink to", [" John", " the"], method="own_path")
        >>> int(view.frame["position"].max()), "span" in view.to_html(" the")
        (5, True)
    """
    split, chosen = Split(method, means, from_layer, keep).on(model, layers)
    ids = _answer_ids(model, answers)
    with torch.no_grad():
        found = decompose(model, [prompt], chosen, split, prepend_bos=prepend_bos)
    return PromptView(prompt, ids, found, model.tokenizer)


def _answer_ids(model: Any, answers: Sequence[str]) -> dict[int, str]:
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError("The model must have a tokenizer to read a prompt, got none.")
    if isinstance(answers, str) or not answers:
        raise ValueError(f"answers must be a list of texts such as [' Mary', ' the'], got {answers!r}.")
    found: dict[int, str] = {}
    for answer in answers:
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(
                f"An answer must be one token, got {answer!r} with {len(ids)}. Most words need a space "
                "in front: ' Mary'."
            )
        found[ids[0]] = answer
    return found
