"""What libraries say while a model is loaded, kept off; the package's own warnings, once, in a line."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

#: Packages whose remarks a user of a command can do nothing about.
TALKATIVE = ("transformers", "huggingface_hub", "transformer_lens", "accelerate", "torch", "tokenizers")


@contextmanager
def quiet(say: Callable[[str], None], *, verbose: bool = False) -> Iterator[None]:
    """Within it libraries neither log nor warn, and other warnings are one line each.

    Args:
        say: shows a line.
        verbose: leaves all as it is.
    """
    if verbose:
        yield
        return
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    root = logging.getLogger()
    told: set[str] = set()

    def show(message: Any, category: Any, filename: str, *_: Any, **__: Any) -> None:
        text = " ".join(str(message).split())
        if not _of_a_library(filename) and text not in told:
            told.add(text)
            say(f"warning: {text}")

    for logger in loggers:
        logger.setLevel(logging.ERROR)
    root.addFilter(_no_remark)
    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        finally:
            root.removeFilter(_no_remark)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def without_bars(*, verbose: bool = False) -> Iterator[None]:
    """Within it transformers draws no bars of loading and gives no advice; bars of downloads stay.

    Apart from `quiet`, since it imports transformers, which commands that load no model do without.
    """
    if verbose:
        yield
        return
    from transformers.utils import logging as speech

    shown, level = speech.is_progress_bar_enabled(), speech.get_verbosity()
    speech.disable_progress_bar()
    speech.set_verbosity_error()  # its import sets what `quiet` has set before
    try:
        yield
    finally:
        speech.set_verbosity(level)
        if shown:
            speech.enable_progress_bar()


def _of_a_library(filename: str) -> bool:
    """Whether a file belongs to one of them, as it was installed.

    Examples:
        >>> _of_a_library("/x/site-packages/torch/hub.py"), _of_a_library("/torch/mine.py")
        (True, False)
    """
    parts = Path(filename).parts
    return any(place.endswith("-packages") and name in TALKATIVE for place, name in pairwise(parts))


def _no_remark(record: logging.LogRecord) -> bool:
    """TransformerLens logs by the root logger."""
    return record.levelno >= logging.ERROR or not _of_a_library(record.pathname)
