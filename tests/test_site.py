"""What the book is built from: chapters that failed, scripts on the pages that need them, files that no page needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browsing import without_tags

from aslpinn_book.study.notebooks import Task
from aslpinn_book.study.run import Study, summary
from aslpinn_book.study.site import build_site, prune, stage

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(tmp_path) -> Path:
    """A book of two chapters, one of which links to the other's figure and has a moving figure."""
    root = tmp_path / "project"
    (root / "book" / "_static").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (root / "book" / "intro.md").write_text("# Intro\n\nTo {doc}`/notebooks/bad`.\n")
    (root / "book" / "references.bib").write_text("")
    for name in ("custom.css", "accessible.js"):
        (root / "book" / "_static" / name).write_text("")
    (root / "book" / "_static" / "favicon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (root / "notebooks" / "bad.md").write_text("# Bad\n\n(fig-lost)=\n")
    (root / "notebooks" / "good.md").write_text("# Good\n")
    (root / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nparts:\n  - caption: A\n    chapters:\n"
        "      - file: notebooks/good\n      - file: notebooks/bad\n"
    )
    return root


def run(project: Path) -> tuple[list[Task], dict]:
    """The two chapters and the record of a study in which the second failed."""
    tasks, results = [], {}
    for name, error in (("good", None), ("bad", "ValueError: <no> `luck`")):
        report = project / "out" / "chapters" / f"{name}.ipynb"
        tasks.append(Task(name, "chapter", project / "notebooks" / f"{name}.md", report, {}, title=name))
        results[name] = {"state": "failed" if error else "done", "seconds": 1.0, "error": error, "hash": "0"}
    text = "# Good\n\nSee {numref}`fig-lost`.\n\n```{widget} buxton\nMove it.\n```\n"
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": text}
    tasks[0].report.parent.mkdir(parents=True)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    node = {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    tasks[0].report.write_text(json.dumps(node))
    return tasks, summary(Study(chapters=True), tasks, results)


def test_a_chapter_that_failed_is_staged_as_a_page_that_says_so(project):
    tasks, record = run(project)
    pages = stage(project, tasks, record)
    source = json.loads(pages["notebooks/bad.ipynb"])["cells"][0]["source"]
    assert source.startswith("# bad: failed")
    assert "ValueError: <no> `luck`" in source
    assert "numref" not in pages["notebooks/good.ipynb"].decode(), "its figures are not referred to"
    assert b"notebooks/bad" in pages["_toc.yml"]


def test_a_book_that_cannot_be_built_leaves_the_one_before_and_a_new_one_takes_its_place(project, monkeypatch):
    built: list[str] = []

    def build(folder: Path, log: Path) -> bool:
        built.append(f"number {len(built)}")
        log.parent.mkdir(exist_ok=True)
        log.write_text("WARNING: of a chapter")
        html = folder / "_build" / "html"
        html.mkdir(parents=True)
        (html / "index.html").write_text(built[-1])
        (html / f"only-in-{len(built)}.html").write_text("")
        return built[-1] != "number 1"

    monkeypatch.setattr("aslpinn_book.study.site._jupyter_book", build)
    tasks, record = run(project)
    out = project / "out"
    for expected, text in ((True, "number 0"), (False, "number 0"), (True, "number 2")):
        (project / "book" / "intro.md").write_text(f"# Intro {len(built)}\n")
        assert build_site(project, out, tasks, record, say=lambda text: None) is expected
        assert (out / "site" / "index.html").read_text() == text
    assert not (out / "site" / "only-in-1.html").exists()
    assert not (out / "stage").exists()


def subject(project: Path, key: str) -> Task:
    report = project / "out" / "subjects" / key / "report.ipynb"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    series = str(project / f"{key}_asl.nii.gz")
    return Task(key, "subject", project / "x.md", report, {}, title=key, series=series, maps=project / "maps")


def test_a_subject_whose_page_or_maps_are_damaged_does_not_hold_up_the_book(project, monkeypatch, capsys):
    tasks, _ = run(project)
    subjects = [subject(project, key) for key in ("sub-cut", "sub-warned", "sub-dark", "sub-fine")]
    subjects[0].report.write_text('{"cells": [')
    (project / "maps").mkdir()
    (project / "maps" / "sub-dark_cbf.nii.gz").write_bytes(b"not gzip")
    done = {"state": "done", "seconds": 1.0, "error": None, "hash": "0", "maps": []}
    results = {task.key: dict(done) for task in [*tasks, *subjects]}
    results["bad"] |= {"state": "failed", "error": "x"}
    results["sub-dark"]["maps"] = ["sub-dark_cbf.nii.gz"]
    record = summary(Study(chapters=True), [*tasks, *subjects], results)
    staged: list[dict[str, str]] = []

    def build(folder: Path, log: Path) -> bool:
        pages = {path.stem: path.read_text() for path in folder.glob("subjects/*.ipynb")}
        staged.append(pages)
        (folder / "_build" / "html").mkdir(parents=True, exist_ok=True)
        (folder / "_build" / "html" / "index.html").write_text("")
        log.parent.mkdir(exist_ok=True)
        log.write_text(f"{folder}/subjects/sub-warned.ipynb:10002: WARNING: Unknown `<b>` [x]\n")
        return len(staged) > 1

    monkeypatch.setattr("aslpinn_book.study.site._jupyter_book", build)
    out = project / "out"
    assert not build_site(project, out, [*tasks, *subjects], record, say=lambda text: None), "and it is told"
    assert (out / "site" / "index.html").is_file()
    before, after = staged
    assert "sub-cut: not shown" in before["sub-cut"]
    assert "not shown" not in before["sub-warned"]
    assert "Unknown `<b>`" in after["sub-warned"]
    assert "not shown" not in after["sub-fine"]
    told = capsys.readouterr().err
    assert [key for key in ("sub-cut", "sub-warned", "sub-dark", "sub-fine") if f"subjects/{key}: " in told] == [
        "sub-cut", "sub-warned", "sub-dark",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_book_builds_with_a_chapter_that_failed_and_loads_scripts_where_they_are_needed(project):
    tasks, record = run(project)
    out = project / "out"
    assert build_site(project, out, tasks, record, say=lambda text: None), (out / "logs" / "site.log").read_text()
    good, bad, intro = (out / "site" / f"{name}.html" for name in ("notebooks/good", "notebooks/bad", "book/intro"))
    assert "<no>" in without_tags(bad.read_text())
    text = good.read_text()
    assert 'data-widget="buxton"' in text
    assert text.index("widgets/core.js") < text.index("widgets/buxton.js")
    assert "Move it." in text
    for other in (bad, intro):
        assert "widgets/" not in other.read_text()
        assert "custom.css" in other.read_text()


def test_pruning_keeps_what_mathematics_needs(tmp_path):
    kept = ("mathjax/tex-chtml.js", "mathjax/output/chtml/fonts/a.woff", "mathjax/sre/mathmaps/en.json", "scripts/a.js")
    gone = ("mathjax/tex-svg.js", "mathjax/sre/mathmaps/hi.json", "scripts/a.js.map", "locales/de/a.mo")
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    prune(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == set(kept)
