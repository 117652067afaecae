"""What a site writes on average at each token: the global part of its output, from a corpus."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

from torch import Tensor

from tl_truncate.corpora.corpus import Corpus
from tl_truncate.corpora.rereading import rereadable
from tl_truncate.decompose.fits.origin import of_the_weights, require_same
from tl_truncate.decompose.means.file import read_sums, write_sums
from tl_truncate.decompose.means.fitting import FitOptions, chosen_sites, fit_manifest, fit_sums
from tl_truncate.decompose.means.on_workers import MeansAsked, fit_on
from tl_truncate.decompose.means.site_means import SiteMeans
from tl_truncate.runs.manifests import TOKENS
from tl_truncate.runs.sharded.kinds import RunKind
from tl_truncate.runs.sharded.results import ResultKind, kept, said
from tl_truncate.runs.shards import Shard, as_shard, require_folder
from tl_truncate.runs.workers.pool import Pool
from tl_truncate.runs.workers.ray import Ray
from tl_truncate.weights.site import Site

_FILE = "means.safetensors"


@dataclass(frozen=True, eq=False, repr=False)
class TokenMeans(SiteMeans):
    """Means of sites' outputs by token, shrunk towards the mean of all: `G(v)`.

    `G(v) = mu + n_v / (n_v + kappa) (m(v) - mu)`: mu is the mean over all positions, m(v) that over the
    n_v positions whose current token is v. With bigrams, `G(u, v)` is shrunk in the same way from the
    mean after u towards G(v).

    Attributes:
        kappa: of the shrinkage, in positions.
        sums: by fold (`fit`, `held_out`) and site. G uses both folds; R^2 uses them apart.
        record: model, weights, versions, corpus.

    Source: derived in docs/decomposition.md; the shrinkage is that of Efron and Morris 1975.
    """

    @classmethod
    def fit(
        cls,
        model: Any,
        corpus: Corpus,
        *,
        layers: Sequence[int] | None = None,
        sites: Sequence[Site | str] | None = None,
        kappa: float = 2.0,
        bigrams: bool = False,
        shares: bool = True,
        mask: Tensor | None = None,
        held_out: float = 0.1,
        max_tokens: int | None = None,
        prepend_bos: bool | None = None,
        batch_size: int = 16,
        path: str | os.PathLike[str] | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        shard: tuple[int, int] | None = None,
        on: Ray | Pool | None = None,
        progress: bool = True,
    ) -> "TokenMeans":
        """Averages what sites write, by token, in one pass over a corpus.

        Padding, position 0 and attention sinks (outputs longer than 60 times the median of their row)
        are left out. Only tokens that are seen take memory: 8 bytes x seen tokens x sites x width, and
        as much again for `shares`, and for the tokens of the held-out rows.

        Args:
            model: a HookedTransformer or TransformerBridge in evaluation mode. With `on`, what each
                worker loads: a name or folder, as `load_model` does, or a function without arguments.
            corpus: texts, a tensor of tokens `[passage, pos]`, the path of a text file with an empty
                line between passages, or any iterator of texts, token numbers or a dataset's rows.
            layers: whose MLP outputs are averaged (W_out); all by default.
            sites: further sites whose outputs are averaged, such as `blocks.3.mlp.W_in`.
            kappa: positions of the mean that a token's own mean is shrunk towards.
            bigrams: also by the previous token; 8 bytes x seen pairs x sites x width more.
            shares: also the second moments that `component_shares` needs.
            mask: for a tensor, False or 0 at padding.
            held_out: share of the passages that is kept apart for R^2; G uses them too.
            max_tokens: of a row; longer passages go on in further rows.
            prepend_bos: for texts; overrides the model's default.
            batch_size: rows in a pass.
            path: a file for the sums, written now and then, at the end, and when interrupted. Given
                again with the same corpus and the same weights, the fit goes on behind the rows that it
                has.
            run_dir: a folder in which the sums are kept in the same way, and which shards have in
                common. All texts are read once before the passes; an iterator's passages are kept in a
                temporary file meanwhile.
            shard: `(3, 8)` runs the third of eight shares of the batches, in which all texts are divided
                as in one process; `merge` adds the sums: counts exactly, sums to the rounding of
                float64. All texts are read by each. The result is of this shard alone.
            on: `tlt.Ray(workers=8)` shares the passes among processes with a model each; the sums are
                those of one process. A worker has a batch at a time, of 16 that are read ahead.
            progress: shows a bar.

        Returns:
            The means.

        Raises:
            ValueError: if an argument does not fit, the corpus has no row of two tokens, or the file
                holds another fit: of other weights, sites, options or rows; or if the folder, or a shard
                in it, does.
            TypeError: if the corpus is of no known kind.
            BlockingIOError: if another process works in the folder, or on the same shard.

        Examples:
            >>> means = tlt.TokenMeans.fit(model, tokens, layers=[1])
            >>> means.of_tokens("blocks.1.mlp.W_out", tokens).shape
            torch.Size([2, 7, 32])
        """
        options = FitOptions(
            kappa=kappa,
            bigrams=bigrams,
            shares=shares,
            held_out=held_out,
            max_tokens=max_tokens,
            prepend_bos=prepend_bos,
            batch_size=batch_size,
        )
        part = as_shard(shard)
        require_folder(part, run_dir)
        if on is not None:
            if run_dir is not None:
                raise ValueError(f"With on=, sums must be kept by path=, got run_dir={run_dir!r}.")
            named = None if sites is None else tuple(map(Site.parse, sites))
            asked = MeansAsked(None if layers is None else tuple(layers), named, options)
            fitted = fit_on(model, on, corpus, asked, mask=mask, path=path, progress=progress)
            return cls._kept_at(path, float(kappa), *fitted)
        chosen = chosen_sites(model, layers, sites)
        if path is not None and run_dir is not None:
            raise ValueError(f"There must be a path or a run_dir, got both: {path} and {run_dir}.")

        def work(folder: Path | None, texts: Corpus = corpus) -> TokenMeans:
            file = path if folder is None else folder / _FILE
            told: dict[str, Any] = dict(mask=mask, progress=progress)
            sums, record = fit_sums(model, texts, chosen, options, path=file, shard=part, **told)
            return cls._kept_at(file, float(kappa), sums, record)

        if run_dir is None:
            return work(None)
        with rereadable(corpus) as texts:
            manifest = fit_manifest(model, texts, chosen, options, mask=mask, shard=part)
            names = [str(part or Shard(1, 1))]
            means = kept(MEANS, run_dir, part, manifest, names, partial(work, texts=texts))
        _require_rows(means, manifest[TOKENS], run_dir)
        return means

    @classmethod
    def _kept_at(cls, path: str | os.PathLike[str] | None, *fields: Any) -> "TokenMeans":
        """The means, in a file if there is to be one."""
        means = cls(*fields)
        if path is not None:
            means.save(path)
        return means

    def merge(self, other: "TokenMeans") -> "TokenMeans":
        """The means over both corpora, as if they had been read in one go.

        Raises:
            ValueError: if they are not of the same sites of the same weights, with the same kappa.
        """
        pairs = [("sites", self.sites, other.sites), ("kappa", self.kappa, other.kappa)]
        require_same("Means", [*pairs, *of_the_weights(self.record, other.record)])
        sums = {
            fold: {site: own.plus(other.sums[fold][site]) for site, own in by_site.items()}
            for fold, by_site in self.sums.items()
        }
        corpora = [*self.record["corpora"], *other.record["corpora"]]
        return TokenMeans(self.kappa, sums, {**self.record, "corpora": corpora})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the sums (safetensors) with their record, under a temporary name first."""
        write_sums(path, self.kappa, self.sums, self.record)
        # A cut that is made of these means from now on knows where they are.
        self.record["path"] = str(path)  # type: ignore[index]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "TokenMeans":
        """Reads what `save` wrote.

        Raises:
            ValueError: if the file holds no means.
        """
        kappa, sums, record = read_sums(path)
        return cls(kappa, sums, {**record, "path": str(path)})


def _require_rows(means: TokenMeans, wanted: str, run_dir: str | os.PathLike[str]) -> None:
    """That means are of these rows: an earlier version's manifest does not say it, and a corpus may have
    been read in another order than when it was hashed.

    Raises:
        ValueError: if they are of others.
    """
    found = means.record["corpora"][0]["hash"]
    if found != wanted:
        raise ValueError(
            f"The means in {run_dir} must be of the same rows of tokens as the corpus, and it must give "
            f"the same each time it is read, got means of rows {found}, and rows {wanted} now. Use "
            "another folder, and a corpus that is not shuffled anew."
        )


def _joined(manifest: Mapping[str, Any], parts: Sequence[tuple[list[str], TokenMeans]]) -> TokenMeans:
    """The means of a corpus of which each part has run some batches."""
    records = [dict(part.record["corpora"][0]) for _, part in parts]
    for (names, _), record in zip(parts, records, strict=True):
        record.pop("shard")
        other = {name for name in record if record[name] != records[0].get(name)}
        if other - {"batch_size"}:
            raise ValueError(
                f"All shards must be of the same corpus, but {names[0]} and {parts[0][0][0]} differ in "
                f"{', '.join(sorted(other))}. Give each the same texts, in the same order."
            )
    whole = reduce(lambda one, other: one.merge(other), (part for _, part in parts))
    record = {name: value for name, value in whole.record.items() if name != "path"}
    return TokenMeans(whole.kappa, whole.sums, {**record, "corpora": records[:1]})


#: What is kept of a fit in a run folder.
MEANS: ResultKind[TokenMeans] = ResultKind(
    RunKind(
        "token_means",
        wanted=lambda manifest: manifest["shares"],
        told=said,
        free=("model", "shares"),
        noted=("device",),
    ),
    save=lambda means, folder: means.save(folder / _FILE),
    load=lambda folder: TokenMeans.load(folder / _FILE),
    join=_joined,
)
