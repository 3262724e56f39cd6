"""The chapters in Jupyter: notebooks/NAME.ipynb, which jupytext pairs with NAME.md; written by `make notebooks`.

    python -m aslpinn_book.study.paired

The text is the source, and the only one of the two that is kept in git. What was changed in a paired notebook is taken
over into its text before anything is run from there.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aslpinn.errors import InputError
from aslpinn.files import write_atomic


def take_over(project: Path, say: Callable[[str], None] = print) -> list[Path]:
    """Write every paired notebook that is newer than its text, and differs from it, into the text; returns the texts.

    A notebook without jupytext's pairing, such as those of the launch buttons, is nobody's source and left alone.

    Raises
    ------
    InputError
        Where a newer notebook cannot be read, or holds a cell that papermill put in; nothing has been written then.
    """
    changed = {}
    for notebook in sorted((project / "notebooks").glob("*.ipynb")):
        text = notebook.with_suffix(".md")
        if not text.is_file() or notebook.stat().st_mtime_ns <= text.stat().st_mtime_ns:
            continue
        import jupytext  # takes a moment, and mostly nothing is newer

        try:
            newer = jupytext.read(notebook)
        except Exception as error:  # whatever nbformat makes of a damaged file
            raise InputError(
                f"{notebook}: is newer than {text.name} and cannot be read ({error}); expected a notebook: remove it, "
                "and `make notebooks` writes it anew"
            ) from error
        source = jupytext.read(text)
        if "formats" not in newer.metadata.get("jupytext", {}) or _cells(newer) == _cells(source):
            continue
        if any("injected-parameters" in cell.metadata.get("tags", []) for cell in newer.cells):
            raise InputError(
                f"{notebook}: is newer than {text.name} and was run by papermill, which put a cell into it; expected "
                "papermill's output under another name: rename or remove this file, then run again"
            )
        newer.metadata = source.metadata
        written = jupytext.writes(newer, fmt="md:myst")
        changed[text] = re.sub(r"^    (?:format|jupytext)_version: .*\n", "", written, count=2, flags=re.MULTILINE)
    for text, content in changed.items():
        write_atomic(text, content)
        say(f"notebooks/{text.name}: took over what was changed in {text.stem}.ipynb, which was newer")
    return list(changed)


def write_pairs(project: Path, say: Callable[[str], None] = print) -> list[Path]:
    """Write notebooks/NAME.ipynb of every text, keeping the outputs of cells that have not changed; returns them."""
    import jupytext
    import nbformat
    from jupytext.combine import combine_inputs_with_outputs

    take_over(project, say)
    made = []
    for text in sorted((project / "notebooks").glob("*.md")):
        notebook, node = text.with_suffix(".ipynb"), jupytext.read(text)
        if notebook.is_file():
            node = combine_inputs_with_outputs(node, jupytext.read(notebook))
        write_atomic(notebook, nbformat.writes(node) + "\n")
        os.utime(notebook, ns=(text.stat().st_atime_ns, text.stat().st_mtime_ns))  # newer only once it is changed
        made.append(notebook)
    return made


def _cells(node: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """What a notebook says, without what running or opening it leaves behind."""
    left = ("execution", "collapsed", "scrolled", "jupyter", "editable", "slideshow", "trusted")
    return [
        (cell.cell_type, cell.source, {name: value for name, value in cell.metadata.items() if name not in left})
        for cell in node.cells
    ]


def main(project: Path) -> int:
    """Write the notebooks of the book in which this is run."""
    try:
        for notebook in write_pairs(project):
            print(notebook.relative_to(project))
    except InputError as error:
        print(f"aslpinn: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
