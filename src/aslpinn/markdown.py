"""Markdown whose words come from data: the one place where names, messages and cells are made harmless.

What a data set says (names of files, strings of JSON and TSV files, messages that quote them) is shown as it stands and
never read as markup, by MyST, by HTML or by a table.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

#: Characters beside letters and digits that mean nothing to markdown inside a line.
_HARMLESS = frozenset(" -.,/()%+±µ·–")


def words(text: object) -> str:
    """Text from data inside a line of markdown: shown letter by letter, whatever it holds; line breaks are spaces."""
    line = " ".join(str(text).split())
    count = len(re.match(r"\d*", line)[0])  # type: ignore[index]
    kept = []
    for at, c in enumerate(line):
        listed = at <= count and not c.isalnum()  # "-", "+", "1." or "1)", which begin a list, or "%", a comment
        address = c == "." and line[at + 1 : at + 2].isalpha()  # which would become a link
        kept.append(c if c.isalnum() or (c in _HARMLESS and not listed and not address) else _shown(c))
    return "".join(kept)


def _shown(character: str) -> str:
    """A character as a numeric entity; what cannot be seen (controls, changes of direction) as a replacement mark."""
    return "\ufffd" if unicodedata.category(character)[0] == "C" else f"&#{ord(character)};"


def block(text: str) -> str:
    """Text from data as a block of its own, line by line, between fences longer than any run of backticks in it."""
    lines = [
        "".join("\ufffd" if unicodedata.category(c)[0] == "C" and c != "\t" else c for c in line)
        for line in text.splitlines()
    ]
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return "\n".join([f"{fence}text", *lines, fence])


def table(head: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> str:
    """A markdown table of cells that are markdown themselves; the columns named in `right` are set to the right."""
    rule = ["---:" if name in right else "---" for name in head]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in (head, rule, *rows))
