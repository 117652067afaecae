"""Running text that is at hand without a download: for costs, and to fit means on."""

from importlib import resources

from tl_truncate.corpora.passages import passages_of


def sample_texts() -> tuple[str, ...]:
    """Passages in the public domain that ship with the package.

    Examples:
        >>> len(sample_texts()) >= 20
        True
    """
    text = resources.files("tl_truncate.corpora").joinpath("sample.txt").read_text("utf-8")
    _, _, body = text.partition("\n---\n")
    return tuple(passages_of(body.splitlines()))


def manual_texts(words: int = 30_000) -> tuple[str, ...]:
    """Prose of Python's own language manual, which comes with every Python: text to fit means on.

    It is technical English, and holds none of the prompts of this package's tasks. A corpus that is
    like your prompts makes better means: name your own where you have one.

    Args:
        words: about how many; there are some 40000.

    Returns:
        Passages of up to some 300 words.

    Raises:
        ModuleNotFoundError: on the rare Python that comes without its manual (`pydoc_data`).

    Examples:
        >>> 400 <= sum(len(text.split()) for text in manual_texts(500)) <= 900
        True
    """
    from pydoc_data import topics

    found: list[str] = []
    count = 0
    for topic in topics.topics.values():
        for passage in _passages(topic):
            if count >= words:
                return tuple(found)
            found.append(passage)
            count += len(passage.split())
    return tuple(found)


def _passages(topic: str, words: int = 300) -> list[str]:
    """Paragraphs of prose, put together to passages; headings and indented code are left out."""
    found: list[list[str]] = [[]]
    for paragraph in topic.split("\n\n"):
        own = paragraph.split()
        lines = paragraph.strip("\n").splitlines()
        prose = lines and not lines[0].startswith("    ") and len(own) >= 12 and own[-1].endswith(".")
        if not prose:
            continue
        if len(found[-1]) + len(own) > words and found[-1]:
            found.append([])
        found[-1] += own
    return [" ".join(passage) for passage in found if passage]
