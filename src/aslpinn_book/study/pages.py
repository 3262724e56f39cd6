"""Pages as readers get them: notebooks without what papermill put in, failures, tables made from study.json."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from pathlib import Path, PurePosixPath
from typing import Any

from aslpinn.markdown import block, table, words

from .notebooks import Task


def reader_copy(
    notebook: str,
    suffix: str = "",
    orphan: bool = False,
    page: str = "",
    staged: Container[str] | None = None,
    lost: Container[str] = (),
    title: str = "",
) -> str:
    """An executed notebook as readers get it: without the cell and the metadata that papermill put in.

    page, staged and lost: see without_links. title: of a page made from a template, whose code is folded away.

    With a suffix it is appended to every label of a figure or equation, because a template's labels would otherwise
    be defined on each subject's page.
    """
    node = json.loads(notebook)
    node["cells"] = [c for c in node["cells"] if "injected-parameters" not in c["metadata"].get("tags", [])]
    for holder in [node, *node["cells"]]:
        for name in ("papermill", "execution"):
            holder["metadata"].pop(name, None)
    if title:
        node["cells"] = _as_results(node["cells"], title)
    if suffix:
        _suffix_labels(node["cells"], re.sub(r"[^a-z0-9]+", "-", suffix.lower()))
    for cell in node["cells"] if staged is not None else ():
        if cell["cell_type"] == "markdown":
            cell["source"] = without_links("".join(cell["source"]), page, staged or (), lost)
    if orphan:
        node["metadata"]["orphan"] = True
    return json.dumps(node, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _as_results(cells: list[dict[str, Any]], title: str) -> list[dict[str, Any]]:
    """A template's cells for readers of results: its own title, code folded away, none of the template's parameters."""
    kept = [cell for cell in cells if "parameters" not in cell["metadata"].get("tags", [])]
    for cell in kept:
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and "remove-input" not in tags:
            folded = "hide-cell" if "hide-output" in tags else "hide-input"
            cell["metadata"]["tags"] = [*(tag for tag in tags if tag != "hide-output"), folded]
    for cell in kept:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and text.startswith("# "):
            cell["source"] = re.sub(r"\A# .*", lambda _: f"# {title}", text)
            break
    return kept


def without_links(text: str, page: str, staged: Container[str], lost: Container[str] = ()) -> str:
    """Markdown in which links from page to chapters that are not staged, and to the labels in `lost`, are plain text.

    A study may leave chapters out, and their figures with them. Cards keep their words, buttons go.
    """

    def there(target: str) -> bool:
        full = target[1:] if target.startswith("/") else (PurePosixPath(page).parent / target).as_posix()
        return not full.startswith("notebooks/") or full.removesuffix(".md") in staged

    def plain(match: re.Match[str]) -> str:
        words, target = match["words"], match["target"]
        return match[0] if there(target) else (words or target.rsplit("/", 1)[-1]).strip()

    def unlinked(match: re.Match[str]) -> str:
        return match[0] if there(match["target"]) else ""

    def named(match: re.Match[str]) -> str:
        return (match["words"] or match["label"]).strip() if match["label"] in lost else match[0]

    text = re.sub(r"\{(?:num)?ref\}`(?:(?P<words>[^`<]*)<)?(?P<label>[\w:-]+)>?`", named, text)
    text = re.sub(r"\[(?P<words>[^\]]*)\]\((?P<target>/?[\w./-]+)\)", plain, text)
    text = re.sub(r"^```\{button-ref\} (?P<target>\S+)\n(?:[^`]*\n)?```$", unlinked, text, flags=re.MULTILINE)
    text = re.sub(r"^:link: (?P<target>/?[\w./-]+)\n:link-type: doc\n", unlinked, text, flags=re.MULTILINE)
    return re.sub(r"\{doc\}`(?:(?P<words>[^`<]*)<)?(?P<target>[\w./-]+)>?`", plain, text)


def labels_of(text: str) -> set[str]:
    """Labels of figures and sections that the source of a chapter defines."""
    return set(re.findall(r"^(?:\s*:?name: |\()([\w:-]+)(?:\)=)?$", text, flags=re.MULTILINE))


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
    what = "This chapter"
    if task.series:
        what = f"The series {words(Path(task.series).name)} of data set {words(task.dataset)}"
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
    told, verb = ("not fitted", "fitted") if task.kind == "subject" else ("failed", "completed")
    title = f"{words(task.title)}, {told}" if ": " in task.title else f"{words(task.title)}: {told}"
    return (
        f"# {title}\n\n{what} could not be {verb}. What was reported:\n\n"
        f"{block(str(state['error']))}\n\n## How to mend it\n\n{mend}\n"
    )


def unreadable_page(title: str, error: str) -> str:
    """The page that stands where a subject's own could not be shown."""
    return f"# {words(title)}: not shown\n\nThe page of this subject could not be made:\n\n{block(error)}\n"


def prose_notebook(text: str) -> str:
    """A notebook of one markdown cell."""
    cell = {"cell_type": "markdown", "id": "prose", "metadata": {}, "source": text}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    node = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(node, indent=1, ensure_ascii=False) + "\n"


def subjects_page(record: dict[str, Any]) -> str:
    """The table of all subjects, with a link to the page of each."""
    subjects = record["subjects"]
    failed = [key for key, state in subjects.items() if state["state"] != "done"]
    settings = record["settings"]
    told = "its page says" if len(failed) == 1 else "their pages say"
    rows = [
        [f"[{key}](/subjects/{key})", words(state["dataset"]), state["state"], f"{state['seconds']:.1f}"]
        for key, state in subjects.items()
    ]
    count = f"{len(subjects)} series, estimator {words(settings['estimators'][0])}. "
    count += f"{len(failed)} failed; {told} why." if failed else "All were fitted."
    listed = table(["subject", "data set", "state", "seconds"], rows, right=["seconds"])
    return f"# Subjects\n\n{count}\n\n{listed}\n"


def study_tables(record: dict[str, Any]) -> str:
    """Versions, settings and times of a study as markdown tables."""
    versions = {"aslpinn": record["aslpinn"], "Python": record["python"]} | record["libraries"]
    settings = {name: json.dumps(value, ensure_ascii=False) for name, value in record["settings"].items()}
    times = []
    for kind, folder in (("chapters", "notebooks"), ("subjects", "subjects"), ("groups", "subjects")):
        for key, state in record[kind].items():
            memory = state.get("peak_memory_mb") or ""
            times.append([f"[{key}](/{folder}/{key})", state["state"], f"{state['seconds']:.1f}", memory])
    parts = [
        "## Versions",
        table(["program or library", "version"], [[name, words(value)] for name, value in versions.items()]),
        f"Machine: {words(record['machine'])}.",
        "## Settings",
        table(["setting", "value"], [[name, words(value)] for name, value in settings.items()]),  # as in STUDY.toml
        "## Times",
        table(["page", "state", "seconds", "peak memory, MB"], times, right=["seconds", "peak memory, MB"]),
    ]
    return "\n\n".join(parts)
