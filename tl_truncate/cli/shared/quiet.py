"""What libraries say while a model is loaded, kept off; the package's own warnings, once, in a line."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Packages whose remarks a user of a command can do nothing about.
TALKATIVE = ("transformers", "huggingface_hub", "transformer_lens", "accelerate", "torch", "tokenizers")


@contextmanager
def quiet(say: Callable[[str], None], *, verbose: bool = False) -> Iterator[None]:
    """Within it libraries neither log nor warn nor draw bars, and other warnings are one line each.

    Args:
        say: shows a line.
        verbose: leaves all as it is.
    """
    if verbose:
        yield
        return
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    bars = _without_bars()
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
            if bars is not None:
                bars.enable_progress_bar()


def _without_bars() -> Any:
    """The module of transformers that has its bars, if they were on and are off now."""
    from transformers.utils import logging as bars

    if not bars.is_progress_bar_enabled():
        return None
    bars.disable_progress_bar()
    return bars


def _of_a_library(filename: str) -> bool:
    """Whether a file belongs to one of them.

    Examples:
        >>> _of_a_library("/x/site-packages/transformers/utils/hub.py"), _of_a_library("/x/mine.py")
        (True, False)
    """
    return any(part in TALKATIVE for part in Path(filename).parts)


def _no_remark(record: logging.LogRecord) -> bool:
    """TransformerLens logs by the root logger."""
    return record.levelno >= logging.ERROR or not _of_a_library(record.pathname)
