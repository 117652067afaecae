"""What the view is made of in a browser."""

from importlib import resources


def asset(name: str) -> str:
    """The text of a file of the view.

    Examples:
        >>> "explore.css" in asset("explore.html")
        True
    """
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
