"""What an interval promises, by simulation: `python benchmarks/coverage.py`, about a minute.

How often the 95% interval of few prompts has the truth in it, before (percentile bootstrap, as it was)
and now, with what else could be taken. Goal: .93 or more of normal, lognormal (sigma 1) and share data
at n = 5, 10, 25 and 50. Then how often a verdict is wrong if nothing has an effect.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tl_truncate.statistics import (
    estimate_against_draws,
    mean_columns,
    q_values,
    share_change_columns,
    share_columns,
)

SIZES = (5, 10, 25, 50)
RESAMPLES = 1000
Array = NDArray[np.float64]
Interval = Callable[[Array], tuple[Array, Array]]


def percentile(sample: Array) -> tuple[Array, Array]:
    """The percentile bootstrap of the mean of each column, as all intervals were."""
    return tuple(np.quantile(_resampled(sample), [0.025, 0.975], axis=0))


def student(sample: Array) -> tuple[Array, Array]:
    """Student's t."""
    half = stats.t.ppf(0.975, len(sample) - 1) * stats.sem(sample)
    return sample.mean(axis=0) - half, sample.mean(axis=0) + half


def bca(sample: Array) -> tuple[Array, Array]:
    """The bias-corrected and accelerated bootstrap, as scipy has it, of a quarter of the samples."""
    ends = []
    for part in np.array_split(sample[:, : sample.shape[1] // 4], 20, axis=1):
        with np.errstate(all="ignore"):
            found = stats.bootstrap(
                (part,), np.mean, n_resamples=RESAMPLES, method="BCa", random_state=0
            ).confidence_interval
        ends.append((found.low, found.high))
    low, high = (np.concatenate(each) for each in zip(*ends, strict=True))
    return low, high


def bootstrap_t(sample: Array) -> tuple[Array, Array]:
    """The bootstrap of Student's statistic."""
    n, weights = len(sample), _weights(len(sample))
    means = weights @ sample
    deviations = np.sqrt(np.maximum(weights @ sample**2 - means**2, 0) * n / (n - 1))
    with np.errstate(all="ignore"):
        ratios = (means - sample.mean(axis=0)) / (deviations / np.sqrt(n))
    low, high = np.nanquantile(ratios, [0.025, 0.975], axis=0)
    se = stats.sem(sample)
    return sample.mean(axis=0) - high * se, sample.mean(axis=0) - low * se


def ours(columns: Callable[..., object]) -> Interval:
    """The package's interval."""

    def interval(sample: Array) -> tuple[Array, Array]:
        found = columns(sample)
        return found.low, found.high  # type: ignore[attr-defined]

    return interval


def _weights(n: int) -> Array:
    chosen = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    return np.stack([np.bincount(each, minlength=n) for each in chosen]) / n


def _resampled(sample: Array) -> Array:
    return _weights(len(sample)) @ sample


def table(title: str, draw: Callable[[int], Array], truth: float, methods: dict[str, Interval]) -> None:
    """Coverage and median width of each method at each size."""
    print(f"| {title} | " + " | ".join(f"n = {n}" for n in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    for name, method in methods.items():
        cells = []
        for n in SIZES:
            low, high = method(draw(n))
            inside = np.mean((low <= truth + 1e-12) & (truth - 1e-12 <= high))
            cells.append(f"{inside:.3f} ({np.nanmedian(high - low):.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()


def means(trials: int) -> None:
    """Means of normal and of skewed values."""
    methods: dict[str, Interval] = {
        "before: percentile bootstrap": percentile,
        "Student's t": student,
        "BCa": bca,
        "bootstrap-t": bootstrap_t,
        "**now: `estimate_mean`**": ours(mean_columns),
    }
    random = np.random.default_rng(0)
    kinds: dict[str, tuple[Callable[[int], Array], float]] = {
        "mean of normal values": (lambda n: random.normal(size=(n, trials)), 0.0),
        "mean of lognormal values, sigma 1": (
            lambda n: random.lognormal(size=(n, trials)),
            float(np.exp(0.5)),
        ),
    }
    for title, (draw, truth) in kinds.items():
        table(title, draw, truth, methods)


def shares(trials: int) -> None:
    """Shares of hits, and paired changes of shares."""
    random = np.random.default_rng(1)
    methods: dict[str, Interval] = {
        "before: percentile bootstrap": percentile,
        "**now: `estimate_share`**": ours(share_columns),
    }
    for share in (0.5, 0.8, 0.96, 0.99):

        def hits(n: int, share: float = share) -> Array:
            return (random.random((n, trials)) < share).astype(float)

        table(f"share, p = {share}", hits, share, methods)
    methods["**now: `estimate_share_change`**"] = ours(share_change_columns)
    del methods["**now: `estimate_share`**"]
    for gained, lost in ((0.02, 0.02), (0.2, 0.2), (0.3, 0.05)):

        def changes(n: int, gained: float = gained, lost: float = lost) -> Array:
            return random.choice([1.0, -1.0, 0.0], size=(n, trials), p=[gained, lost, 1 - gained - lost])

        title = f"paired change of a share, {gained:g} gained and {lost:g} lost"
        table(title, changes, gained - lost, methods)


def verdicts(trials: int) -> None:
    """Verdicts where nothing has an effect."""
    random = np.random.default_rng(2)
    print("Verdicts of an effect where there is none:")
    for n in SIZES:
        sample = random.normal(size=(n, trials))
        low, high = percentile(sample)
        before = np.mean((low > 0) | (high < 0))
        now = np.mean(mean_columns(sample).p < 0.05)
        print(f"  one setting, {n} prompts: before {before:.3f}, now {now:.3f}")
    any_before, any_now = [], []
    for _ in range(200):
        sample = random.normal(size=(50, 630))
        p = mean_columns(sample).p
        any_before.append(np.mean(p < 0.05))
        any_now.append((q_values(p) < 0.05).any())
    print(f"  630 settings, 50 prompts: {np.mean(any_before):.3f} of them by their own intervals,")
    print(f"  and by q there is one in {np.mean(any_now):.3f} of all such studies")
    for draws in (4, 16):
        wins = 0
        for _ in range(1000):
            values = random.normal(size=50) + random.normal(size=(draws + 1, 1)) / 2
            values = values + random.normal(size=(draws + 1, 50)) / 2
            wins += estimate_against_draws(values[0], values[1:]).low > 0
        print(f"  'beats its control', a cut that is one more draw, {draws} draws: {wins / 1000:.3f}")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4000)
    options = parser.parse_args()
    print(f"Coverage of 95% intervals ({options.trials} samples; in brackets the median width)\n")
    means(options.trials)
    shares(options.trials)
    verdicts(options.trials)


if __name__ == "__main__":
    main()
