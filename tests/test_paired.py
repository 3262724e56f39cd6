"""Chapters in Jupyter: the notebook beside a text, what is taken over from it, and papermill on it as users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aslpinn import simulate
from aslpinn.data import write_phantom
from aslpinn.errors import InputError
from aslpinn_book.study.paired import take_over, write_pairs

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parents[1]
TEXT = """---
jupytext:
  formats: ipynb,md:myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A chapter

See {doc}`other`.

```{code-cell} python
:tags: [parameters]
fast = False
```

```{code-cell} python
print(1)
```
"""


@pytest.fixture
def book(tmp_path: Path) -> Path:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "one.md").write_text(TEXT)
    write_pairs(tmp_path, print)
    return tmp_path


def edit(notebook: Path, old: str, new: str, seconds: float = 10.0) -> None:
    """Save a notebook with a change, so many seconds after its text."""
    notebook.write_text(notebook.read_text().replace(old, new))
    stamp = notebook.with_suffix(".md").stat().st_mtime + seconds
    os.utime(notebook, (stamp, stamp))


@pytest.mark.parametrize("chapter", sorted((ROOT / "notebooks").glob("*.md")), ids=lambda file: file.stem)
def test_every_chapter_is_paired_and_survives_the_way_there_and_back(chapter):
    node = jupytext.read(chapter)
    assert node.metadata["jupytext"]["formats"] == "ipynb,md:myst"
    again = jupytext.reads(jupytext.writes(node, fmt="md:myst"), fmt="md:myst")
    assert [(a.cell_type, a.source, a.metadata) for a in again.cells] == [
        (b.cell_type, b.source, b.metadata) for b in node.cells
    ]


def test_what_was_changed_in_jupyter_goes_into_the_text(book):
    notebook, text = book / "notebooks" / "one.ipynb", book / "notebooks" / "one.md"
    edit(notebook, "print(1)", "print(2)")
    said: list[str] = []
    assert take_over(book, said.append) == [text]
    assert "print(2)" in text.read_text()
    assert "{doc}`other`" in text.read_text()
    assert text.read_text().split("# A chapter")[0].count("jupytext_version") == 0
    assert "one.ipynb" in said[0]
    assert take_over(book, said.append) == []  # once
    for made in write_pairs(book):
        assert (
            made.stat().st_mtime_ns == made.with_suffix(".md").stat().st_mtime_ns
        )  # so that any change makes it newer


def test_an_older_notebook_one_that_only_ran_and_one_of_another_making_change_nothing(book):
    notebook, text = book / "notebooks" / "one.ipynb", book / "notebooks" / "one.md"
    edit(notebook, "print(1)", "print(3)", seconds=-10)
    assert take_over(book) == []
    write_pairs(book)  # the text wins
    assert "print(1)" in notebook.read_text()
    node = jupytext.read(notebook)
    node.cells[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="1\n")]
    node.metadata["language_info"] = {"name": "python", "version": "3.11"}
    jupytext.write(node, notebook)
    edit(notebook, "nothing to replace", "")
    assert take_over(book) == []
    write_pairs(book)
    assert jupytext.read(notebook).cells[-1].outputs[0]["text"] == "1\n"  # outputs of unchanged cells stay
    node.metadata.pop("jupytext")
    node.cells[-1].source = "print(4)"
    jupytext.write(node, notebook, fmt="ipynb")
    edit(notebook, '"jupytext": {', '"other": {')
    assert take_over(book) == []
    assert text.read_text() == TEXT


def test_a_notebook_that_papermill_ran_in_place_and_a_damaged_one_are_refused(book):
    notebook, text = book / "notebooks" / "one.ipynb", book / "notebooks" / "one.md"
    edit(notebook, '"parameters"', '"injected-parameters"')
    with pytest.raises(InputError, match=r"one\.ipynb: is newer than one\.md and was run by papermill"):
        take_over(book)
    edit(notebook, '"cells"', '"cel')
    with pytest.raises(InputError, match="cannot be read"):
        take_over(book)
    assert text.read_text() == TEXT


def test_a_study_takes_over_what_was_changed_before_it_runs(project, capsys):
    from templates import dataset

    from aslpinn_book.study.run import study

    template = project / "notebooks" / "subject.md"
    template.write_text(
        template.read_text().replace("---\nkernelspec", "---\njupytext: {formats: 'ipynb,md:myst'}\nkernelspec")
    )
    write_pairs(project)
    edit(project / "notebooks" / "subject.ipynb", "See {eq}", "Compare {eq}")
    data = dataset(project.parent / "data", **{"01": "fine"})
    assert study([data], project / "out", fast=True, book=False, chapters=False) == 0
    assert "took over what was changed in subject.ipynb" in capsys.readouterr().out
    assert "Compare {eq}" in template.read_text()
    assert "Compare {eq}" in (project / "out" / "subjects" / "sub-01" / "report.ipynb").read_text()


@pytest.mark.slow
def test_papermill_runs_one_subject_from_its_notebook(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "subject.md").write_text((ROOT / "notebooks" / "subject.md").read_text())
    write_pairs(tmp_path)
    asl = write_phantom(simulate("mpld6", tsnr=3.0, voxel_size=(8.0, 8.0, 10.0)), tmp_path / "data")[0]
    command = [sys.executable, "-m", "papermill", "notebooks/subject.ipynb", "out.ipynb", "-p", "asl", str(asl)]
    command += ["-p", "estimator", "nlls", "-p", "out", "maps", "-p", "held_out", "False", "--no-progress-bar"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    executed = jupytext.read(tmp_path / "out.ipynb")
    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in executed.cells)
    images = [o for cell in executed.cells for o in cell.get("outputs", []) if "image" in str(o.get("data", {}).keys())]
    assert len(images) >= 5
    assert len(list((tmp_path / "maps").rglob("*_cbf.nii.gz"))) >= 1
    notebook = tmp_path / "notebooks" / "subject.ipynb"
    notebook.write_bytes((tmp_path / "out.ipynb").read_bytes())  # the output over the input, as some do
    edit(notebook, "nothing to replace", "")
    with pytest.raises(InputError, match="papermill"):
        take_over(tmp_path)
