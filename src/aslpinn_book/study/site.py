"""The book of a study: stage what jupyter-book reads, build it with warnings as errors, put it at OUT/site.

Staged are the prose of book/, the executed chapters, one page a subject (or a page that says why there is none), and
pages made from study.json. Nothing that a reader sees holds a path of this machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aslpinn.errors import InputError

from . import launch_buttons
from .needs import plan_table
from .notebooks import SOURCES, Task, file_digest
from .pages import (
    failed_page,
    labels_of,
    prose_notebook,
    reader_copy,
    study_tables,
    subjects_page,
    unreadable_page,
    without_links,
)
from .plan import schema_table
from .viewer import sources, write_viewer

#: Above this many subjects their pages are reached from the table of subjects only: a sidebar of hundreds of entries
#: on every page makes building slower than linear in the pages.
SIDEBAR_LIMIT = 100
_TABLE_MARK = "<!-- study tables -->"
_SCHEMA_MARK = "<!-- study schema -->"
_NEEDS_MARK = "<!-- study needs -->"
_RUN_MARK = "<!-- run now -->"


def chapters_of(project: Path) -> list[str]:
    """Names of the chapters (notebooks/NAME) in the order of _toc.yml."""
    return [entry["file"].split("/", 1)[1] for entry in _entries(_toc(project)) if _is_chapter(entry)]


def pages_of(project: Path) -> list[str]:
    """Paths of the pages in _toc.yml, without extension, the first page first."""
    toc = _toc(project)
    return [str(toc["root"]), *(str(entry["file"]) for entry in _entries(toc))]


def build_site(
    project: Path, out: Path, tasks: Sequence[Task], record: dict[str, Any], say: Callable[[str], None] = print
) -> bool:
    """Build OUT/site from the executed notebooks; True where it stands, every page is in it and no warning was raised.

    Skipped where nothing that goes in has changed since the site was built. A subject whose page cannot be made gets
    one that says so, and the book stands without it: the others are not held up.
    """
    pages = stage(project, tasks, record)
    total = hashlib.sha256()
    for source in (
        "study/site.py",
        "study/launch_buttons.py",
        "study/pages.py",
        "study/viewer.py",
        "chapters/labels_and_search.py",
        "chapters/widget_directive.py",
    ):
        total.update(file_digest(SOURCES / "aslpinn_book" / source).encode())
    for name in sorted(pages):
        total.update(f"{name} {pages.fingerprint(name)}".encode())
    viewers = [(task, state) for task in tasks if (state := _fitted(task, record)) is not None]
    estimators = [str(name) for name in record["settings"]["estimators"]]
    for task, state in viewers:
        total.update(f"{task.key} {sources(task, state, estimators)}".encode())
    site, stamp, log = out / "site", out / "site" / ".stamp", out / "logs" / "site.log"
    if (site / "index.html").is_file() and stamp.is_file() and stamp.read_text() == total.hexdigest():
        say(f"the book is up to date: {site / 'index.html'}")
        return True
    folder = out / "stage"
    shutil.rmtree(folder, ignore_errors=True)
    titles = {page_of(task): task.title for task in tasks if task.kind == "subject"}
    broken: dict[str, str] = {}
    for name in list(pages):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.write_bytes(pages[name])
        except (ValueError, LookupError, TypeError, AttributeError) as failure:
            page = name.rsplit(".", 1)[0]
            if page not in titles:
                raise
            broken[page] = f"its report cannot be read: {failure!r}"
            _instead(folder, page, titles[page], broken[page])
    start = time.monotonic()
    say(f"building the book: {len(list(folder.rglob('*.ipynb')))} notebooks, {len(list(folder.rglob('*.md')))} pages")
    built = _jupyter_book(folder, log)
    if not built and (warned := _pages_warned_of(log, folder, titles)):
        for page, error in warned.items():
            _instead(folder, page, titles[page], error)
        broken |= warned
        built = _jupyter_book(folder, log)
    if not built:
        return False
    html = folder / "_build" / "html"
    for task, state in viewers:
        try:
            write_viewer(html / "maps", task, state, estimators, files=len(viewers) <= SIDEBAR_LIMIT)
        except Exception as failure:  # whatever a damaged map makes of it: the page stands without moving maps
            broken[page_of(task)] = f"its maps cannot be shown: {failure!r}"
    prune(html / "_static")
    (html / ".nojekyll").touch()  # GitHub Pages leaves out folders that begin with "_" otherwise
    if not broken:  # else the next run tries again
        (html / ".stamp").write_text(total.hexdigest())
    if site.exists():  # moved, not removed: the book is gone for no longer than a moment
        os.replace(site, folder / "replaced")
    os.replace(html, site)
    shutil.rmtree(folder)
    for page, error in broken.items():
        print(f"aslpinn: {page}: {error}", file=sys.stderr)
    say(f"built in {time.monotonic() - start:.0f} s: {site / 'index.html'}")
    return not broken


class Pages(Mapping[str, bytes]):
    """Files that jupyter-book gets, by path; executed notebooks are read when asked for, never all at once."""

    def __init__(self) -> None:
        self._content: dict[str, bytes] = {}
        self._reports: dict[str, tuple[Path, str, bool, str]] = {}
        self.lost: set[str] = set()  # labels of figures in chapters that were not made

    @property
    def staged(self) -> set[str]:
        """Paths without extension: what a link may point to."""
        return {name.rsplit(".", 1)[0] for name in self}

    def __setitem__(self, name: str, content: bytes) -> None:
        self._content[name] = content

    def add_report(self, name: str, report: Path, suffix: str, orphan: bool, title: str = "") -> None:
        """An executed notebook, of which reader_copy is staged; a title makes it a page of results."""
        self._reports[name] = (report, suffix, orphan, title)

    def __getitem__(self, name: str) -> bytes:
        if name in self._content:
            return self._content[name]
        report, suffix, orphan, title = self._reports[name]
        text = report.read_text(encoding="utf-8")
        return reader_copy(text, suffix, orphan, name, self.staged, self.lost, title).encode()

    def __iter__(self) -> Iterator[str]:
        yield from self._content
        yield from self._reports

    def __len__(self) -> int:
        return len(self._content) + len(self._reports)

    def texts(self) -> list[tuple[str, bytes]]:
        """The markdown pages."""
        return [(name, content) for name, content in self._content.items() if name.endswith(".md")]

    def fingerprint(self, name: str) -> str:
        """What changes where the staged file does, without making it."""
        if name in self._content:
            return hashlib.sha256(self._content[name]).hexdigest()
        report, suffix, orphan, title = self._reports[name]
        return f"{file_digest(report)} {suffix} {orphan} {title}"


def stage(project: Path, tasks: Sequence[Task], record: dict[str, Any]) -> Pages:
    """Every file that jupyter-book gets, by its path."""
    pages = Pages()
    url = launch_buttons.repository(project)
    pages["_config.yml"] = launch_buttons.configured((project / "_config.yml").read_bytes(), url)
    fill: dict[str, Callable[[dict[str, Any]], str]] = {
        _TABLE_MARK: study_tables,
        _SCHEMA_MARK: lambda _: schema_table(),
        _NEEDS_MARK: partial(_needs, tasks),
        _RUN_MARK: lambda _: launch_buttons.run_now(url),
    }
    for path in sorted((project / "book").rglob("*")):
        name = path.relative_to(project).as_posix()
        if path.is_file() and path.suffix != ".py" and not any(part.startswith(".") for part in Path(name).parts):
            content = path.read_bytes()
            for mark, made in fill.items():
                if name.endswith(".md") and mark.encode() in content:
                    content = content.replace(mark.encode(), made(record).encode())
            pages[name] = content
    for task in tasks:
        name = page_of(task)
        state = record[f"{task.kind}s"][task.key]
        orphan = task.kind == "subject" and len(record["subjects"]) > SIDEBAR_LIMIT
        if state["state"] == "done":
            title = {"subject": task.title, "group": "The group"}.get(task.kind, "")
            suffix = task.key if task.kind == "subject" else ""
            pages.add_report(f"{name}.ipynb", task.report, suffix, orphan, title)
        else:
            text = failed_page(task, state)
            if task.kind == "chapter":  # as a notebook: _config.yml leaves out the chapters' sources, notebooks/*.md
                pages[f"{name}.ipynb"] = prose_notebook(text).encode()
            else:
                pages[f"{name}.md"] = ("---\norphan: true\n---\n" * orphan + text).encode()
    if record["subjects"]:
        pages["subjects/index.md"] = subjects_page(record).encode()
    staged = pages.staged
    executed = {key for key, state in record["chapters"].items() if state["state"] == "done"}
    for chapter in chapters_of(project):
        source = project / "notebooks" / f"{chapter}.md"
        if chapter not in executed and source.is_file():
            pages.lost |= labels_of(source.read_text(encoding="utf-8"))
    for name, content in pages.texts():
        pages[name] = without_links(content.decode(), name, staged, pages.lost).encode()
    pages["_toc.yml"] = _dump(_with_subjects(_toc(project), tasks, staged)).encode()
    return pages


def _needs(tasks: Sequence[Task], record: dict[str, Any]) -> str:
    """What 1,000 subjects like those of this study need."""
    members = [task for task in tasks if task.kind == "subject"]
    if not any(state["state"] == "done" for state in record["subjects"].values()):
        return "No subject of this study was fitted, so nothing was measured."
    return f"```none\n{plan_table(members[0].report.parents[2], 1000, record=record)}\n```"


def page_of(task: Task) -> str:
    """Path of a task's page in the book, without extension."""
    return f"notebooks/{task.key}" if task.kind == "chapter" else f"subjects/{task.key}"


def _fitted(task: Task, record: dict[str, Any]) -> dict[str, Any] | None:
    """State of a subject that was fitted; None for everything else."""
    state = record["subjects"].get(task.key) if task.kind == "subject" else None
    return state if state is not None and state["state"] == "done" else None


def prune(static: Path) -> None:
    """Remove from a built book what no page loads: MathJax in forms not used, maps of sources, unused translations."""
    mathjax = static / "mathjax"
    kept = ("tex-chtml.js", "output/chtml", "input/tex/extensions", "a11y", "sre", "ui", "LICENSE", "package.json")
    for path in sorted(mathjax.rglob("*")) if mathjax.is_dir() else ():
        name = path.relative_to(mathjax).as_posix()
        spoken = name.startswith("sre/mathmaps/") and path.stem not in ("base", "en")
        if path.is_file() and (spoken or not name.startswith(kept)):
            path.unlink()
    for path in static.rglob("*.map"):
        path.unlink()
    shutil.rmtree(static / "locales", ignore_errors=True)


def _instead(folder: Path, page: str, title: str, error: str) -> None:
    """Stage a page that says why a subject's own is not there."""
    for ending in (".md", ".ipynb"):
        (folder / f"{page}{ending}").unlink(missing_ok=True)
    (folder / f"{page}.ipynb").write_text(prose_notebook(unreadable_page(title, error)), encoding="utf-8")


def _pages_warned_of(log: Path, folder: Path, titles: Mapping[str, str]) -> dict[str, str]:
    """Subjects' pages that a failed build has warned of, with the first warning of each."""
    found: dict[str, str] = {}
    warning = re.compile(rf"{re.escape(str(folder))}/(?P<page>[^:]+)\.(?:ipynb|md):.*?(?:WARNING|ERROR): (?P<told>.*)")
    for line in log.read_text(encoding="utf-8").splitlines():
        match = warning.match(re.sub(r"\x1b\[[0-9;]*m", "", line))
        if match and match["page"] in titles:
            found.setdefault(match["page"], f"Sphinx: {match['told']}")
    return found


def _jupyter_book(folder: Path, log: Path) -> bool:
    """Run jupyter-book with warnings as errors; output to a log, on failure warnings to stderr."""
    script = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "build", str(folder), "--all", "-W", "--keep-going"]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    run = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(run.stdout, encoding="utf-8")
    if run.returncode == 0:
        return True
    told = [line for line in run.stdout.splitlines() if re.search(r"WARNING|ERROR|CRITICAL|rror:", line)]
    print("\n".join(told[:20]), file=sys.stderr)
    return False


def _toc(project: Path) -> dict[str, Any]:
    import yaml

    toc = yaml.safe_load((project / "_toc.yml").read_text(encoding="utf-8"))
    if not isinstance(toc, dict) or "parts" not in toc:
        raise InputError(f"{project / '_toc.yml'}: no parts found; expected a jb-book table of contents with parts")
    return toc


def _dump(toc: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(toc, sort_keys=False, allow_unicode=True)


def _entries(toc: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in toc["parts"]:
        yield from part["chapters"]


def _is_chapter(entry: dict[str, Any]) -> bool:
    return str(entry.get("file", "")).startswith("notebooks/")


def _with_subjects(toc: dict[str, Any], tasks: Sequence[Task], staged: set[str]) -> dict[str, Any]:
    """The table of contents without pages that were not made, and with a part for the subjects before the last."""
    parts = []
    for part in toc["parts"]:
        chapters = [entry for entry in part["chapters"] if entry["file"] in staged]
        if chapters:
            parts.append(part | {"chapters": chapters})
    subjects = [task for task in tasks if task.kind == "subject"]
    if subjects:
        entry: dict[str, Any] = {"file": "subjects/index"}
        group = [{"file": page_of(task)} for task in tasks if task.kind == "group"]
        if len(subjects) <= SIDEBAR_LIMIT:
            entry["sections"] = [{"file": f"subjects/{task.key}", "title": task.title} for task in subjects]
        parts.insert(max(0, len(parts) - 1), {"caption": "Subjects", "chapters": [*group, entry]})
    return toc | {"parts": parts}
