"""Launch buttons: the chapters as notebooks that Binder and Colab open, and where a page's buttons point.

    python -m aslpinn_book.study.launch_buttons

writes notebooks/NAME.ipynb for every chapter. A workflow puts them on a branch (BRANCH) beside the sources, since
they are generated and no other branch holds them. Which repository that is is read from REPOSITORY_URL, from
repository-code in CITATION.cff, or from git's origin; without an address on github.com the book has no buttons.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

BRANCH = "launch"
PROVIDERS = {"Binder": "https://mybinder.org", "Colab": "https://colab.research.google.com"}

_DROPDOWN = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,}|:{3,})\{(?P<kind>admonition|dropdown)\} (?P<title>.+)\n"
    r"(?P<options>(?: *:[a-z-]+:.*\n)*)(?P<body>(?:.*\n)*?)(?P=indent)(?P=fence) *$",
    re.MULTILINE,
)


def repository(project: Path) -> str | None:
    """https://github.com/OWNER/NAME of the project, or None where no address on github.com is known."""
    for found in (os.environ.get("REPOSITORY_URL", ""), _cited(project), _origin(project)):
        match = re.fullmatch(r"(?:https://|ssh://git@|git@)github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?", found)
        if match:
            return f"https://github.com/{match[1]}"
    return None


def _cited(project: Path) -> str:
    import yaml

    file = project / "CITATION.cff"
    citation = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return str(citation.get("repository-code", ""))


def _origin(project: Path) -> str:
    if not (project / ".git").exists():  # a folder inside someone else's repository
        return ""
    command = ["git", "-C", str(project), "config", "--get", "remote.origin.url"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # no git
        return ""


def configured(config: bytes, url: str | None) -> bytes:
    """_config.yml with the repository that the launch buttons name, or without buttons where there is none."""
    import yaml

    values: dict[str, Any] = yaml.safe_load(config)
    if url is None:
        values.pop("launch_buttons", None)
    else:
        values["repository"] = {"url": url, "branch": BRANCH, "path_to_book": ""}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def setup(app: Any) -> dict[str, Any]:
    """Sphinx: only chapters keep the buttons, since subjects' pages are templates that need their data."""

    def keep_on_chapters(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
        if not page.startswith("notebooks/"):
            buttons = context.get("header_buttons", [])
            buttons[:] = [button for button in buttons if button.get("label") != "launch-buttons"]

    app.connect("html-page-context", keep_on_chapters, priority=990)  # after the theme has made them
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def plain(text: str) -> str:
    """Markdown of a chapter for Jupyter and Colab, which know neither the book's directives nor its roles."""

    def folded(match: re.Match[str]) -> str:
        indent, body = match["indent"], match["body"].rstrip()
        if match["kind"] == "admonition" and "dropdown" not in match["options"]:
            return f"{indent}**{match['title']}**\n\n{body}"
        return f"{indent}<details><summary>{match['title']}</summary>\n\n{body}\n\n{indent}</details>"

    text = _DROPDOWN.sub(folded, text)
    text = re.sub(r"\{doc\}`(?:([^`<]+?) *<[^`>]+>|/?(?:[\w-]+/)*([\w-]+))`", lambda m: f"*{m[1] or m[2]}*", text)
    text = re.sub(r"\{cite(?::\w)?\}`([^`]+)`", r"[\1]", text)
    text = re.sub(r"\{(?:numref|eq|ref)\}`(?:([^`<]+?) *<[^`>]+>|[^`]+)`", lambda m: m[1] or "the one shown", text)
    text = re.sub(r"\{(?:py:\w+|math|term)\}`([^`]+)`", r"`\1`", text)
    text = re.sub(r"^\([\w:-]+\)=\n", "", text, flags=re.MULTILINE)
    return re.sub(r"(\$\$) *\([\w:-]+\)", r"\1", text)


def as_notebook(chapter: Path, url: str | None) -> Any:
    """A chapter as a notebook without outputs; on Colab its first cell installs this package from the repository."""
    import jupytext
    from nbformat.v4 import new_code_cell

    node = jupytext.read(chapter)
    node.metadata.pop("jupytext", None)  # its text is not the chapter's: saving it must not change the chapter
    for cell in node.cells:
        if cell.cell_type == "markdown":
            cell.source = plain(cell.source)
        cell.metadata.pop("mystnb", None)
    if url is not None:
        source = (
            "# On Colab, install what this page runs; elsewhere nothing happens.\nimport sys\n\n"
            f'if "google.colab" in sys.modules:\n    %pip install --quiet "aslpinn[ablation,data] @ git+{url}@{BRANCH}"'
        )
        node.cells.insert(0, new_code_cell(source, metadata={"tags": ["remove-cell"]}, id="install"))
    return node


def main(project: Path) -> int:
    """Write notebooks/NAME.ipynb beside every chapter."""
    import nbformat

    url = repository(project)
    toc = (project / "_toc.yml").read_text(encoding="utf-8")
    for name in re.findall(r"file: notebooks/([\w-]+)", toc):  # needs no more than jupytext and PyYAML
        chapter = project / "notebooks" / f"{name}.md"
        if chapter.is_file():
            nbformat.write(as_notebook(chapter, url), chapter.with_suffix(".ipynb"))
            print(chapter.with_suffix(".ipynb").relative_to(project))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
