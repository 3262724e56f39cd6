"""The book of a study: stage what jupyter-book reads, build it with warnings as errors, put it at OUT/site.

Staged are the prose of book/, the executed chapters, one page a subject (or a page that says why there is none), and
pages made from study.json. Nothing that a reader sees holds a path of this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .settings import schema_table
from .tasks import Task, file_digest

#: Above this many subjects their pages are reached from the table of subjects only: a sidebar of hundreds of entries
#: on every page makes building slower than linear in the pages.
SIDEBAR_LIMIT = 100
_TABLE_MARK = "<!-- study tables -->"
_SCHEMA_MARK = "<!-- study schema -->"


def chapters_of(project: Path) -> list[str]:
    """Names of the chapters (notebooks/NAME) in the order of _toc.yml."""
    return [entry["file"].split("/", 1)[1] for entry in _entries(_toc(project)) if _is_chapter(entry)]


def build_site(
    project: Path, out: Path, tasks: Sequence[Task], record: dict[str, Any], say: Callable[[str], None] = print
) -> bool:
    """Build OUT/site from the executed notebooks; True where it stands and no warning was raised.

    Skipped where nothing that goes in has changed since the site was built.
    """
    pages = stage(project, tasks, record)
    total = hashlib.sha256(file_digest(Path(__file__)).encode())
    for name in sorted(pages):
        total.update(f"{name} {pages.fingerprint(name)}".encode())
    site, stamp, log = out / "site", out / "site" / ".stamp", out / "logs" / "site.log"
    if (site / "index.html").is_file() and stamp.is_file() and stamp.read_text() == total.hexdigest():
        say(f"the book is up to date: {site / 'index.html'}")
        return True
    folder = out / "stage"
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    del content
    start = time.monotonic()
    say(f"building the book: {len(list(folder.rglob('*.ipynb')))} notebooks, {len(list(folder.rglob('*.md')))} pages")
    if not _jupyter_book(folder, log):
        return False
    (folder / "_build" / "html" / ".stamp").write_text(total.hexdigest())
    shutil.rmtree(site, ignore_errors=True)
    os.replace(folder / "_build" / "html", site)
    shutil.rmtree(folder)
    say(f"built in {time.monotonic() - start:.0f} s: {site / 'index.html'}")
    return True


class Pages(Mapping[str, bytes]):
    """Files that jupyter-book gets, by path; executed notebooks are read when asked for, never all at once."""

    def __init__(self) -> None:
        self._content: dict[str, bytes] = {}
        self._reports: dict[str, tuple[Path, str, bool]] = {}

    def __setitem__(self, name: str, content: bytes) -> None:
        self._content[name] = content

    def add_report(self, name: str, report: Path, suffix: str, orphan: bool) -> None:
        """An executed notebook, of which reader_copy is staged."""
        self._reports[name] = (report, suffix, orphan)

    def __getitem__(self, name: str) -> bytes:
        if name in self._content:
            return self._content[name]
        report, suffix, orphan = self._reports[name]
        return reader_copy(report.read_text(encoding="utf-8"), suffix, orphan).encode()

    def __iter__(self) -> Iterator[str]:
        yield from self._content
        yield from self._reports

    def __len__(self) -> int:
        return len(self._content) + len(self._reports)

    def fingerprint(self, name: str) -> str:
        """What changes where the staged file does, without making it."""
        if name in self._content:
            return hashlib.sha256(self._content[name]).hexdigest()
        report, suffix, orphan = self._reports[name]
        return f"{file_digest(report)} {suffix} {orphan}"


def stage(project: Path, tasks: Sequence[Task], record: dict[str, Any]) -> Pages:
    """Every file that jupyter-book gets, by its path."""
    pages = Pages()
    pages["_config.yml"] = (project / "_config.yml").read_bytes()
    fill = {_TABLE_MARK: study_tables, _SCHEMA_MARK: lambda _: schema_table()}
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
            pages.add_report(f"{name}.ipynb", task.report, task.key if task.kind == "subject" else "", orphan)
        else:
            pages[f"{name}.md"] = ("---\norphan: true\n---\n" * orphan + failed_page(task, state)).encode()
    if record["subjects"]:
        pages["subjects/index.md"] = subjects_page(record).encode()
    staged = {name.rsplit(".", 1)[0] for name in pages}
    pages["_toc.yml"] = _dump(_with_subjects(_toc(project), tasks, staged)).encode()
    return pages


def page_of(task: Task) -> str:
    """Path of a task's page in the book, without extension."""
    return f"notebooks/{task.key}" if task.kind == "chapter" else f"subjects/{task.key}"


def reader_copy(notebook: str, suffix: str = "", orphan: bool = False) -> str:
    """An executed notebook as readers get it: without the cell and the metadata that papermill put in.

    With a suffix it is appended to every label of a figure or equation, because a template's labels would otherwise
    be defined on each subject's page.
    """
    node = json.loads(notebook)
    node["cells"] = [c for c in node["cells"] if "injected-parameters" not in c["metadata"].get("tags", [])]
    for holder in [node, *node["cells"]]:
        for name in ("papermill", "execution"):
            holder["metadata"].pop(name, None)
    if suffix:
        _suffix_labels(node["cells"], re.sub(r"[^a-z0-9]+", "-", suffix.lower()))
    if orphan:
        node["metadata"]["orphan"] = True
    return json.dumps(node, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _suffix_labels(cells: list[dict[str, Any]], suffix: str) -> None:
    """Append "-suffix" to labels and to the roles that refer to them, in place."""
    for cell in cells:
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        if "name" in figure:
            figure["name"] += f"-{suffix}"
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"])
            text = re.sub(r"(\$\$\s*\()([\w:-]+)(\))", rf"\1\2-{suffix}\3", text)
            text = re.sub(r"^(\()([\w:-]+)(\)=)$", rf"\1\2-{suffix}\3", text, flags=re.MULTILINE)
            text = re.sub(r"^(:(?:label|name):\s*)([\w:-]+)$", rf"\1\2-{suffix}", text, flags=re.MULTILINE)
            cell["source"] = re.sub(r"(\{(?:eq|numref|ref)\}`(?:[^`<]*<)?)([\w:-]+)(>?`)", rf"\1\2-{suffix}\3", text)


def failed_page(task: Task, state: dict[str, Any]) -> str:
    """The page of a notebook that failed: what failed and how to mend it."""
    what = f"The series `{Path(task.series).name}` of data set `{task.dataset}`" if task.series else "This chapter"
    if task.kind == "group":
        what, mend = "The page of the group", "The subjects' own pages stand; the same study, run again, makes it anew."
    elif task.kind == "chapter":
        mend = "Run the chapter in Jupyter to see where it stops; after mending it, `make book` runs it again."
    elif state.get("input_error"):
        mend = (
            "Mend the file that the message names; `aslpinn check` on the series tells whether it is complete. "
            "Then run the same study again: only what changed is fitted."
        )
    else:
        mend = (
            "The message is not one about the input that the program foresees. "
            f"`subjects/{task.key}/report.log` in the study's folder has the details, and "
            "`aslpinn fit --debug` on the series repeats the step. Then run the same study again."
        )
    message = str(state["error"])
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", message)), default=0))
    return (
        f"# {task.title}: not fitted\n\n{what} could not be completed. What was reported:\n\n"
        f"{fence}text\n{message}\n{fence}\n\n## How to mend it\n\n{mend}\n"
    ).replace(": not fitted", ": not fitted" if task.kind == "subject" else ": failed")


def subjects_page(record: dict[str, Any]) -> str:
    """The table of all subjects, with a link to the page of each."""
    subjects = record["subjects"]
    failed = [key for key, state in subjects.items() if state["state"] != "done"]
    settings = record["settings"]
    lines = [
        "# Subjects",
        "",
        f"{len(subjects)} series, estimator `{settings['estimators'][0]}`, preset `{settings['preset']}`. "
        + (f"{len(failed)} failed; their pages say why." if failed else "All were fitted."),
        "",
        "| subject | data set | state | seconds |",
        "|---|---|---|---:|",
    ]
    for key, state in subjects.items():
        lines.append(f"| [{key}](/subjects/{key}) | {state['dataset']} | {state['state']} | {state['seconds']:.1f} |")
    return "\n".join(lines) + "\n"


def study_tables(record: dict[str, Any]) -> str:
    """Versions, settings and times of a study as markdown tables."""
    versions = {"aslpinn": record["aslpinn"], "Python": record["python"]} | record["libraries"]
    lines = ["## Versions", "", "| program or library | version |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in versions.items()]
    lines += ["", f"Machine: {record['machine']}.", "", "## Settings", "", "| setting | value |", "|---|---|"]
    lines += [f"| {name} | `{value}` |" for name, value in record["settings"].items()]
    lines += ["", "## Times", "", "| page | state | seconds | peak memory, MB |", "|---|---|---:|---:|"]
    for kind, folder in (("chapters", "notebooks"), ("subjects", "subjects"), ("groups", "subjects")):
        for key, state in record[kind].items():
            memory = state.get("peak_memory_mb") or ""
            lines.append(f"| [{key}](/{folder}/{key}) | {state['state']} | {state['seconds']:.1f} | {memory} |")
    return "\n".join(lines)


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
    told = [line for line in run.stdout.splitlines() if "WARNING" in line or "ERROR" in line or "rror:" in line]
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
