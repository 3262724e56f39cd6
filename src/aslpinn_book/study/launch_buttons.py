"""What a book of a known repository has: launch buttons, cards for links to its pages, badges in README.md.

    python -m aslpinn_book.study.launch_buttons             notebooks/NAME.ipynb of every chapter, for Binder and Colab
    python -m aslpinn_book.study.launch_buttons --badges    the badges at the top of README.md

A workflow puts the notebooks on a branch (BRANCH) beside the sources, since they are generated and no other branch
holds them. Which repository it is stands in REPOSITORY_URL, in repository-code of CITATION.cff, or in git's origin;
without an address on github.com there are no buttons, cards and badges.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

BRANCH = "launch"
#: The chapter that the first page's button opens.
FIRST = "pinn-from-nothing"
BADGES = ("<!-- badges, by make badges -->\n", "<!-- end of badges -->")
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


def pages(url: str) -> str:
    """Address at which GitHub Pages serves the book of a repository."""
    owner, name = url.removeprefix("https://github.com/").split("/")
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def opened(url: str, provider: str, chapter: str = FIRST) -> str:
    """Address at which Binder or Colab opens a chapter."""
    place = url.removeprefix("https://github.com/")
    if provider == "Binder":
        return f"{PROVIDERS[provider]}/v2/gh/{place}/{BRANCH}?urlpath=lab/tree/notebooks/{chapter}.ipynb"
    return f"{PROVIDERS[provider]}/github/{place}/blob/{BRANCH}/notebooks/{chapter}.ipynb"


def run_now(url: str | None) -> str:
    """The first page's buttons: open a chapter in the browser, or only read it where no repository is known."""
    if url is None:
        return f"```{{button-ref}} /notebooks/{FIRST}\n:color: primary\n\nRead how a PINN is written\n```"
    buttons = [
        f"```{{button-link}} {opened(url, provider)}\n:color: {color}\n\n{words}\n```"
        for provider, color, words in (
            ("Binder", "primary", "Run a PINN now, in the browser"),
            ("Colab", "secondary", "The same in Colab"),
        )
    ]
    return "\n\n".join(buttons)


def badges(url: str) -> str:
    """Badges of a repository, as lines of markdown: tests, the book, a chapter to run, license, Python."""
    shield = "https://img.shields.io/badge"
    rows = [
        ("tests and book", f"{url}/actions/workflows/book.yml/badge.svg", f"{url}/actions/workflows/book.yml"),
        ("read the book", f"{shield}/read-the_book-0a58b8", pages(url)),
        ("run a PINN on Binder", f"{PROVIDERS['Binder']}/badge_logo.svg", opened(url, "Binder")),
        ("run a PINN on Colab", f"{PROVIDERS['Colab']}/assets/colab-badge.svg", opened(url, "Colab")),
        ("license", f"{shield}/license-Apache--2.0-0a58b8", "LICENSE"),
        ("Python", f"{shield}/Python-3.11_to_3.13-0a58b8", "pyproject.toml"),
    ]
    return "".join(f"[![{words}]({image})]({target})\n" for words, image, target in rows)


def write_badges(project: Path) -> bool:
    """Write the badges of the known repository between their marks in README.md, or none; True where there are some."""
    url, readme = repository(project), project / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BADGES[0], 1)
    after = rest.split(BADGES[1], 1)[1]
    readme.write_text(before + BADGES[0] + (badges(url) if url else "") + BADGES[1] + after, encoding="utf-8")
    return url is not None


def configured(config: bytes, url: str | None) -> bytes:
    """_config.yml with the repository that the launch buttons name, or without buttons where there is none."""
    import yaml

    values: dict[str, Any] = yaml.safe_load(config)
    if url is None:
        values.pop("launch_buttons", None)
    else:
        values["repository"] = {"url": url, "branch": BRANCH, "path_to_book": ""}
        values.setdefault("html", {})["baseurl"] = pages(url)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode()


def card(address: str, page: str, title: str, doctree: Any) -> str:
    """OpenGraph's description of a page, which others show where they link to it: title, first paragraph, a picture."""
    from docutils import nodes

    paragraphs = doctree.findall(nodes.paragraph) if doctree is not None else ()
    first = next((" ".join(p.astext().split()) for p in paragraphs if len(p.astext()) > 60), "")
    values = {
        "og:type": "article",
        "og:title": re.sub(r"<[^>]+>", "", title),
        "og:description": first if len(first) <= 200 else first[:200].rsplit(" ", 1)[0] + " …",
        "og:url": f"{address}{page}.html",
        "og:image": f"{address}_static/training.png",
        "og:image:alt": "Maps of blood flow and transit time that networks have learned, beside the truth",
    }
    lines = [f'<meta property="{name}" content="{escape(unescape(value))}">' for name, value in values.items() if value]
    return "\n".join([*lines, '<meta name="twitter:card" content="summary_large_image">'])


def setup(app: Any) -> dict[str, Any]:
    """Sphinx: cards; only chapters keep the buttons, since subjects' pages are templates that need their data."""

    def describe(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
        if app.config.html_baseurl:
            made = card(app.config.html_baseurl, page, context.get("title", ""), doctree)
            context["metatags"] = context.get("metatags", "") + "\n" + made

    def keep_on_chapters(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
        if not page.startswith("notebooks/"):
            buttons = context.get("header_buttons", [])
            buttons[:] = [button for button in buttons if button.get("label") != "launch-buttons"]

    app.connect("html-page-context", describe)
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


def main(project: Path, arguments: Sequence[str] = ()) -> int:
    """Write notebooks/NAME.ipynb beside every chapter, or the badges."""
    if "--badges" in arguments:
        print("README.md: badges written" if write_badges(project) else "README.md: no badges, no repository is known")
        return 0
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
    sys.exit(main(Path.cwd(), sys.argv[1:]))
