"""Answers that are kept: by what was asked, and of whom.

The harness' own cache knows a request by its text alone, so that two cuts share answers there.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from tl_truncate.weights.files import as_path

# Of each line.
_START = b'{"key": '


def key_of(identity: Mapping[str, Any], kind: str, arguments: Any) -> str:
    """A hash of who is asked, in which way, and what.

    Examples:
        >>> same = key_of({"cuts": []}, "loglikelihood", ("a", " b"))
        >>> same == key_of({"cuts": []}, "loglikelihood", ["a", " b"])
        True
        >>> same == key_of({"cuts": [1]}, "loglikelihood", ("a", " b"))
        False
    """
    asked = json.dumps([identity, kind, arguments], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


class Answers:
    """A file of JSON lines, to which each answer is added as it comes.

    Args:
        path: made when the first answer comes. A last line that a crash has torn is dropped.

    Raises:
        ValueError: if the file holds something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = as_path(path)
        self._found: dict[str, Any] = {}
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if content[end:] and not content[end:].startswith(_START[: len(content) - end]):
            raise ValueError(
                f"{self.path} must be a file of kept answers, got other content. Use another file."
            )
        for number, line in enumerate(content[:end].splitlines(), 1):
            try:
                each = json.loads(line)
                self._found[each["key"]] = each["answer"]
            except (ValueError, TypeError, KeyError):
                raise ValueError(
                    f"{self.path} must be a file of kept answers, but line {number} is none. Use "
                    "another file."
                ) from None
        if end < len(content):
            os.truncate(self.path, end)

    def __len__(self) -> int:
        return len(self._found)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Any:
        """The answer as JSON has it."""
        return self._found[key]

    def add(self, key: str, answer: Any) -> None:
        """Keeps an answer."""
        if key in self._found:
            return
        line = json.dumps(dict(key=key, answer=answer)) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab", buffering=0) as file:
            file.write(line.encode())
        self._found[key] = json.loads(line)["answer"]
