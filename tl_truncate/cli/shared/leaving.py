"""How a command ends where somebody is there: its page in a browser, and the live view a key away."""

import os
import subprocess
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path

from tl_truncate.cli.shared.app import console


def leave(page: Path | None, model: str) -> None:
    """Opens a page if there is a screen, and offers the live view; else says how to come to both.

    Args:
        page: that was written, if any.
        model: as the live view takes it.
    """
    there = somebody_is_there()
    if page is not None and not (there and has_screen(os.environ, sys.platform) and _opened(page)):
        console.print(f"Open in a browser: {page}", markup=False, soft_wrap=True)
    command = f"{_program(sys.argv[0])} explore --model {model}"
    if not there:
        console.print(f"Then try it yourself: {command}", markup=False, soft_wrap=True)
        return
    console.print(
        f"Enter explores it live ({command}); anything else leaves.", markup=False, soft_wrap=True
    )
    if asked():
        subprocess.run([sys.executable, "-m", "tl_truncate", "explore", "--model", model], check=False)


def asked() -> bool:
    """Whether Enter alone was pressed; no answer is no."""
    try:
        return input() == ""
    except EOFError:
        return False


def somebody_is_there() -> bool:
    """A terminal at both ends, and no machine that builds."""
    return sys.stdin.isatty() and sys.stdout.isatty() and not os.environ.get("CI")


def has_screen(environment: Mapping[str, str], platform: str) -> bool:
    """Whether a browser has a screen to open on; one in the terminal itself would be in the way.

    Examples:
        >>> has_screen({}, "linux"), has_screen({"DISPLAY": ":0"}, "linux"), has_screen({}, "darwin")
        (False, True, True)
    """
    named = environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    return platform in ("darwin", "win32") or bool(named)


def _opened(page: Path) -> bool:
    return webbrowser.open(page.resolve().as_uri())


def _program(called: str) -> str:
    """The command as it was called; its name where Python was given the module.

    Examples:
        >>> _program(".venv/bin/tl-truncate"), _program("/a/tl_truncate/__main__.py")
        ('.venv/bin/tl-truncate', 'tl-truncate')
    """
    return called if Path(called).name.startswith("tl-truncate") else "tl-truncate"
