"""Recall data, all rows at once against one token at a time: `python benchmarks/recall_data.py`.

The alternative draws each next token by `Generator.choice` on its row of the table, as a generator
written sequence by sequence does. Both draw from the same table on one core.
"""

import argparse
import time

import numpy as np

from tl_truncate.toys import BigramTable, RecallData


def one_by_one(data: RecallData, n: int, seed: int) -> int:
    """Draws sequences token by token; how many tokens."""
    generator = np.random.default_rng(seed)
    size = len(data.table)
    (trigger,) = data.fixed_triggers
    for _ in range(n):
        target = generator.integers(size)
        tokens = [generator.choice(size, p=data.table.marginal)]
        while len(tokens) <= data.length:
            if tokens[-1] != trigger:
                tokens.append(generator.choice(size, p=data.table.conditional[tokens[-1]]))
            else:
                tokens.append(data.noise_token if generator.random() < data.alpha else target)
    return n * data.length


def main() -> None:
    """Tokens a second of both, interleaved, medians of five rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=512)
    options = parser.parse_args()
    data = RecallData(BigramTable.english(), length=256)
    data.sample(8, seed=0)
    rates: dict[str, list[float]] = {"at once": [], "one by one": []}
    for number in range(5):
        start = time.perf_counter()
        for part in range(8):
            data.sample(options.batch, seed=(number, part))
        middle = time.perf_counter()
        slow = one_by_one(data, 8, number)
        end = time.perf_counter()
        rates["at once"].append(8 * options.batch * data.length / (middle - start))
        rates["one by one"].append(slow / (end - middle))
    medians = {name: float(np.median(each)) for name, each in rates.items()}
    for name, value in medians.items():
        print(f"{name}: {value / 1e6:.3f}M tokens/s")
    print(f"ratio: {medians['at once'] / medians['one by one']:.0f}x")


if __name__ == "__main__":
    main()
