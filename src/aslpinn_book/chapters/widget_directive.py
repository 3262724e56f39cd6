"""Sphinx extension of the book: the directive that places a moving figure, and its scripts on the pages that have one.

    ```{widget} buxton
    A caption, in markdown.
    ```

A moving figure may also come from a notebook's cell (aslpinn_book.chapters.widgets). Everything it needs
lies in book/_static;
nothing is loaded from elsewhere.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

#: What each moving figure is, for those who do not see it.
WIDGETS = {
    "buxton": "Moving figure: Buxton's signal with sliders for CBF, ATT, relaxation times and labeling",
    "hadamard": "Moving figure: a Hadamard matrix, the timing and signals of its volumes, and what decoding gives",
    "hash-grid": "Moving figure: the levels of the hash encoding over a brain, and which vertices share a row",
    "training": "Moving figure: maps after each epoch of training, one panel an objective",
    "maps": "Moving figure: the maps of this subject in three dimensions, with a choice of the estimator",
}
NOTE = "This figure moves in the built book, where the browser allows scripts."


class Widget(SphinxDirective):
    """Place a moving figure; the content is its caption."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return the figure as HTML around the parsed caption; other formats get the caption only."""
        name = self.arguments[0]
        if name not in WIDGETS:
            raise self.error(f"there is no widget {name!r}; expected one of {', '.join(WIDGETS)}")
        page = self.env.docname
        up = "../" * page.count("/")
        key = page.rsplit("/", 1)[-1]
        more = ""
        if name == "maps":
            more = f' data-key="{escape(key)}" data-source="{up}maps/{escape(key)}.js"'
            more += f' data-niivue="{up}_static/vendor/niivue/niivue.umd.js"'
        opening = f'<div class="widget" role="group" data-widget="{name}" aria-label="{escape(WIDGETS[name])}"{more}>'
        caption = nodes.container(classes=["widget-caption"])
        self.state.nested_parse(self.content, self.content_offset, caption)
        return [
            nodes.raw("", f'{opening}<p class="widget-note">{NOTE}</p>', format="html"),
            caption,
            nodes.raw("", "</div>", format="html"),
        ]


def add_scripts(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Put the scripts of a page's moving figures on that page."""
    names = sorted(set(re.findall(r'data-widget="([a-z-]+)"', context.get("body") or "")) & set(WIDGETS))
    if names:
        app.add_css_file("widgets/widgets.css")
        for file in ("core", "physics", *names):
            app.add_js_file(f"widgets/{file}.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_directive("widget", Widget)
    app.connect("html-page-context", add_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
