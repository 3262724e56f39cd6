"""What a reader gets of a study: pages without paths, failures that are named, progress while it runs."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from templates import dataset, tasks_of

from aslpinn_book.study.one_notebook import sections
from aslpinn_book.study.pages import failed_page, reader_copy, subjects_page, without_links
from aslpinn_book.study.progress import Progress, Table
from aslpinn_book.study.run import Study, summary
from aslpinn_book.study.site import SIDEBAR_LIMIT, stage

ROOT = Path(__file__).resolve().parents[1]


def fake_run(project: Path, root: Path, states: dict[str, str], **plan):
    """Tasks, and the record of a study in which they ended as told, without running anything."""
    tasks = tasks_of(project, root)
    results = {}
    for task in tasks:
        state = states.get(task.key, "done")
        if state == "done":
            task.report.parent.mkdir(parents=True, exist_ok=True)
            cell = {"cell_type": "markdown", "metadata": {}, "source": ["# A\n", "\n", "$$a$$ (eq-a) {eq}`eq-a`"]}
            task.report.write_text(json.dumps({"cells": [cell], "metadata": {"papermill": {"input_path": "/x"}}}))
        error = None if state == "done" else state
        results[task.key] = {
            "state": "failed" if error else "done",
            "seconds": 1.0,
            "error": error,
            "input_error": True,
            "hash": "0" * 64,
        }
    return tasks, summary(Study(**plan), tasks, results)


def test_the_page_of_a_failed_subject_says_what_and_how_and_shows_markup_as_text(project, tmp_path):
    root = dataset(tmp_path / "a", **{"01": "x"})
    message = "bad <script>alert(1)</script> ``` and {raw} html"
    tasks, record = fake_run(project, root, {"sub-01": message})
    page = failed_page(tasks[0], record["subjects"]["sub-01"])
    assert page.startswith("# sub-01: not fitted")
    assert f"````text\n{message}\n````" in page
    assert "aslpinn check" in page
    assert str(tmp_path) not in page


def test_staged_pages_hold_no_path_and_no_repeated_label(project, tmp_path):
    root = dataset(tmp_path / "a", **{"01": "x", "02": "y"})
    tasks, record = fake_run(project, root, {})
    pages = stage(project, tasks, record)
    first = pages["subjects/sub-01.ipynb"].decode()
    assert "papermill" not in first
    assert "(eq-a-sub-01)" in first
    assert "{eq}`eq-a-sub-01`" in first
    assert not any(str(tmp_path).encode() in content for content in pages.values())
    assert b"| torch |" in pages["book/intro.md"]
    toc = pages["_toc.yml"].decode()
    assert "subjects/sub-02" in toc
    assert "notebooks/one" not in toc, "a chapter that was not made is left out"


def test_many_subjects_leave_the_sidebar_but_stay_linked(project, tmp_path):
    names = {f"{number:04d}": "x" for number in range(SIDEBAR_LIMIT + 1)}
    tasks, record = fake_run(project, dataset(tmp_path / "a", **names), {"sub-0003": "gone"})
    pages = stage(project, tasks, record)
    assert b"subjects/sub-0007" not in pages["_toc.yml"]
    assert json.loads(pages["subjects/sub-0007.ipynb"])["metadata"]["orphan"] is True
    assert pages["subjects/sub-0003.md"].startswith(b"---\norphan: true\n---\n")
    table = subjects_page(record)
    assert table.count("](/subjects/sub-") == len(names)
    assert "1 failed" in table


def test_reader_copy_drops_what_papermill_injected():
    cells = [
        {"cell_type": "code", "metadata": {"tags": ["injected-parameters"]}, "source": "asl = '/home/me'"},
        {"cell_type": "code", "metadata": {"papermill": {"duration": 1}}, "source": "1"},
    ]
    copy = json.loads(reader_copy(json.dumps({"cells": cells, "metadata": {}})))
    assert [cell["source"] for cell in copy["cells"]] == ["1"]
    assert copy["cells"][0]["metadata"] == {}


def test_a_templates_page_has_its_own_title_folded_code_and_no_values_of_the_template():
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# One subject\n\nFrom one series to maps."},
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "subject = 'sub-01'"},
        {"cell_type": "code", "metadata": {}, "source": "1"},
        {"cell_type": "code", "metadata": {"tags": ["remove-input"]}, "source": "2"},
        {"cell_type": "code", "metadata": {"tags": ["hide-output"]}, "source": "3"},
    ]
    text = json.dumps({"cells": cells, "metadata": {}})
    copy = json.loads(reader_copy(text, title="a: sub-07"))
    assert copy["cells"][0]["source"] == "# a: sub-07\n\nFrom one series to maps."
    assert [cell["source"] for cell in copy["cells"][1:]] == ["1", "2", "3"]
    tags = [cell["metadata"]["tags"] for cell in copy["cells"][1:]]
    assert tags == [["hide-input"], ["remove-input"], ["hide-cell"]]
    assert len(json.loads(reader_copy(text))["cells"]) == len(cells), "a chapter keeps its parameters"


def test_links_to_chapters_that_are_not_there_become_words():
    text = "See [the model](/notebooks/kinetics), {doc}`losses`, {doc}`the page <fields>` and [this](/subjects/index)."
    assert without_links(text, "notebooks/a", {"notebooks/losses"}) == (
        "See the model, {doc}`losses`, the page and [this](/subjects/index)."
    )
    card = ":::{{grid-item-card}} Learn\n{}\nThe loss.\n:::\n"
    for chapter, link in (("kinetics", ""), ("losses", ":link: /notebooks/losses\n:link-type: doc\n")):
        linked = card.format(f":link: /notebooks/{chapter}\n:link-type: doc\n")
        assert without_links(linked, "book/intro", {"notebooks/losses"}) == card.format(link)
    button = "Before.\n\n```{button-ref} /notebooks/losses\n:color: primary\n\nRead\n```\n\nAfter."
    assert without_links(button, "book/intro", {"notebooks/losses"}) == button
    assert without_links(button, "book/intro", set()) == "Before.\n\n\n\nAfter."


def test_remaining_time_is_learned_from_what_is_done(project, tmp_path):
    root = dataset(tmp_path / "a", **{f"{number:02d}": "x" for number in range(1, 6)})
    tasks, lines = tasks_of(project, root), []
    shown = Progress(tasks, {}, 2, len(tasks), lines.append)
    assert shown.remaining() is None
    shown.start(tasks[0])
    shown.end(tasks[0], {"state": "done", "seconds": 10.0, "error": None})
    assert shown.remaining() == pytest.approx(4 * 10 / 2)
    shown.start(tasks[1])
    shown.end(tasks[1], {"state": "failed", "seconds": 1.0, "error": "no M0"})
    assert lines == [
        "[1/5] sub-01 done in 10 s, about 20 s left",
        "[2/5] sub-02 failed in 1 s, about 15 s left: no M0",
    ]


def test_table_on_a_terminal_says_what_runs_and_in_which_section(project, tmp_path):
    root = dataset(tmp_path / "a", **{"01": "x", "02": "x"})
    tasks, stream = tasks_of(project, root), io.StringIO()
    shown = Table(tasks, {}, 1, 2, lambda text: stream.write(text + "\n"), stream=stream)
    shown.start(tasks[0])
    shown.stage(tasks[0], "Perfusion and transit time", 0.5)
    shown.tick()
    assert re.search(r"sub-01 +Perfusion and transit time +50% ", stream.getvalue())
    assert "0 of 2 done, 1 waiting" in stream.getvalue()


def test_every_cell_is_told_its_section():
    import jupytext

    names = sections(jupytext.read(ROOT / "notebooks" / "subject.md"))
    assert {"What was found", "Perfusion and transit time", "How sure they are"} <= set(names)
