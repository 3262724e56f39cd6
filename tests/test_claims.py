"""What the chapters say, held by numbers on small data; and links to chapters that a study leaves out."""

from __future__ import annotations

from aslpinn.report.pages import labels_of, without_links


def test_references_to_figures_of_chapters_that_are_not_there_become_words():
    chapter = "---\nmystnb:\n  figure:\n    name: fig-slopes\n---\n(section-a)=\n## A\n$$ x $$ (eq-b)\n"
    assert labels_of(chapter) == {"fig-slopes", "section-a"}
    text = "See {ref}`the slopes <fig-slopes>`, {numref}`fig-slopes` and {ref}`fig-here`."
    assert without_links(text, "book/a", set(), {"fig-slopes"}) == "See the slopes, fig-slopes and {ref}`fig-here`."
