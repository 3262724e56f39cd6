"""How long each page of the book takes to read, and how much code it shows: book/reading.csv.

    python -m aslpinn_book.study.reading

Counted is what a reader sees of the source without opening anything: folded cells, folded solutions and the output of
cells are left out, an inline formula is a word, a displayed one none. Pages of subjects and group fold all their code.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from .site import chapters_of, pages_of

WORDS_A_MINUTE = 200
#: Tags of cells whose code is not seen, or not before it is unfolded.
FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}

_FENCE = re.compile(r"^ *(?P<fence>`{3,}|~{3,}|:{3,})(?:\{(?P<directive>[\w-]+)\})?(?P<title>.*)$")
_OPTION = re.compile(r"^ *:[\w-]+:")
#: Directives whose content is not read as text.
_SILENT = {"math", "include", "toctree", "bibliography", "automodule", "autofunction", "autoclass"}


@dataclass(frozen=True)
class Reading:
    """A page: its path, the words of its prose, minutes at 200 words a minute, and the lines of code that it shows."""

    page: str
    words: int
    minutes: float
    code_lines: int


def measured(project: Path) -> list[Reading]:
    """Every page of the book that has a source, in the order of _toc.yml, and the templates of subjects and group."""
    templates = ("notebooks/subject", "notebooks/group")
    chapters = {*templates, *(f"notebooks/{name}" for name in chapters_of(project))}
    found = []
    for page in dict.fromkeys([*pages_of(project), *templates]):
        source = project / f"{page}.md"
        if source.is_file():
            words, lines = _of_chapter(source) if page in chapters else _of_text(source.read_text(encoding="utf-8"))
            lines = 0 if page in templates else lines
            found.append(Reading(page, words, round(words / WORDS_A_MINUTE, 1), lines))
    return found


def _of_chapter(source: Path) -> tuple[int, int]:
    import jupytext

    words = lines = 0
    for cell in jupytext.read(source).cells:
        if cell.cell_type == "markdown":
            more = _of_text(cell.source)
        else:
            folded = FOLDED & set(cell.metadata.get("tags", []))
            caption: Any = cell.metadata.get("mystnb", {}).get("figure", {}).get("caption", "")
            more = _words(caption), 0 if folded else _lines(cell.source)
        words, lines = words + more[0], lines + more[1]
    return words, lines


def _of_text(text: str) -> tuple[int, int]:
    """Words and lines of code of markdown."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->|^\$\$.*?^\$\$[^\n]*$|\$\$.*?\$\$", "", text, flags=re.DOTALL | re.MULTILINE)
    prose: list[str] = []
    code: list[str] = []
    open_fences: list[
        tuple[str, str]
    ] = []  # the fence, and what becomes of what is inside: "prose", "code" or "folded"
    head = False  # the options of a directive follow its first line
    for line in text.splitlines():
        fence = _FENCE.match(line)
        inside = open_fences[-1][1] if open_fences else "prose"
        if fence and open_fences and fence["fence"].startswith(open_fences[-1][0]) and not line.strip("`~: "):
            open_fences.pop()
            continue
        if fence and inside != "code":
            directive = fence["directive"]
            kind = "folded" if inside == "folded" or directive in _SILENT or directive == "dropdown" else "prose"
            open_fences.append((fence["fence"], kind if directive or fence["fence"][0] == ":" else "code"))
            head = True
            if kind == "prose" and directive:
                prose.append(fence["title"])
            continue
        if head and inside != "code" and (_OPTION.match(line) or not line.strip()):
            if "dropdown" in line:
                open_fences[-1] = (open_fences[-1][0], "folded")
            continue
        head = False
        kinds = {kind for _, kind in open_fences}
        if "folded" not in kinds:
            (code if inside == "code" else prose).append(line)
    return _words("\n".join(prose)), _lines("\n".join(code))


def _words(text: str) -> int:
    text = re.sub(r"\{[\w:-]+\}`(?:([^`<]+?) *<[^`>]+>|([^`]*))`", lambda m: m[1] or m[2] or "", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\$[^$\n]+\$|`[^`\n]+`", " word ", text)
    return len(re.findall(r"[^\W_][\w'’.,-]*", text))


def _lines(source: str) -> int:
    return sum(bool(line.strip()) for line in source.splitlines())


def as_csv(pages: list[Reading]) -> str:
    """The rows of book/reading.csv."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(Reading)])
    writer.writerows(astuple(page) for page in pages)
    return out.getvalue()


def main(project: Path) -> int:
    """Write book/reading.csv of the book in which this is run, and say what is in it."""
    text = as_csv(measured(project))
    (project / "book" / "reading.csv").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
