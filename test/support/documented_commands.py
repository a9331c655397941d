"""The commands that README.md and docs/ tell people to type."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELLS = {"", "sh", "bash"}
_INLINE = re.compile(r"(?<!`)`((?:scaleevent|make|python|ros2 launch) [^`\n]+)`(?!`)")
_VARIABLE = re.compile(r"\w+=\S*")


class Command(NamedTuple):
    """Command in the documentation.

    Attributes:
        page: Page of the command.
        words: Words of the command as split by a shell, without settings of variables before it.
        inline: Whether it is inside a sentence, where arguments may be omitted.
    """

    page: Path
    words: list[str]
    inline: bool

    def __str__(self) -> str:
        """Name it, for the list of tests."""
        return f"{self.page.name}: {' '.join(self.words)}"


def commands_in(page: Path) -> Iterator[Command]:
    """Find a page's commands: lines of fenced blocks without a language, and code in sentences."""
    text = page.read_text(encoding="utf-8")
    for language, block in _FENCE.findall(text):
        if language not in _SHELLS:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if "=$(" in line:
                continue  # a variable set to what a command of the system prints
            words = shlex.split(line, comments=True)
            while words and _VARIABLE.fullmatch(words[0]):
                words.pop(0)
            if words:
                yield Command(page, words, inline=False)
    for found in _INLINE.findall(_FENCE.sub("", text)):
        yield Command(page, shlex.split(found), inline=True)
