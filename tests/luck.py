"""The examples that Hypothesis tries: the same ones in every run, or new ones when looking for trouble."""

import os

from hypothesis import settings

#: `shared`: two workers share two cores, so there are no deadlines, and a run is repeatable. `fuzz`, which
#: `make fuzz` chooses: other examples in every run, and twenty times as many.
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "shared")
settings.register_profile("shared", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(PROFILE)


def examples(count: int) -> int:
    """As many examples of something slow, or twenty times as many when looking for trouble."""
    return count if PROFILE == "shared" else 20 * count
