"""Words that come from data: shown letter by letter by the book's own parser, in a line, in a table, in a block."""

from __future__ import annotations

import html
import re
import unicodedata
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aslpinn.markdown import block, table, words

ROOT = Path(__file__).resolve().parents[1]
NASTY = [
    "sub-`01`<img src=x onerror=alert(1)>",
    "a\n\n```{raw} html\n<script>alert(1)</script>\n```\n",
    "{{ name }} $x$ **b** [a](javascript:alert(1)) ![i](x) <http://a.b> | c \\| d",
    "# title", "- item", "+ item", "1. item", "> quote", "(label)=", "{doc}`/x`", "&lt;b&gt; &#60;", "~~~", "---",
    "===", "\u202egnp.exe\x00\x1b[31m", "https://example.org/<b>", "www.example.org", "1) item", ":::{note}\n:::",
    "% comment", "    code", "[^1]: note",
]  # fmt: skip


def kinds_of(text: str) -> set[str]:
    """What the parser of the book, with the extensions that _config.yml enables, finds in a text beside plain text."""
    from myst_parser.config.main import MdParserConfig
    from myst_parser.mdit_to_docutils.base import DocutilsRenderer
    from myst_parser.parsers.mdit import create_md_parser

    config = yaml.safe_load((ROOT / "_config.yml").read_text())["parse"]["myst_enable_extensions"]
    parser = create_md_parser(MdParserConfig(enable_extensions=set(config)), DocutilsRenderer)
    tokens = parser.parse(text)
    every = [*tokens, *(child for token in tokens for child in token.children or ())]
    return {token.type for token in every} - {"inline", "text", "text_special", "paragraph_open", "paragraph_close"}


def shown(text: str) -> str:
    """What a reader is to see of a text in one line."""
    line = " ".join(text.split())
    return "".join("\ufffd" if unicodedata.category(c)[0] == "C" else c for c in line)


def check_words(text: str) -> None:
    from markdown_it import MarkdownIt

    line = words(text)
    assert "\n" not in line
    seen = MarkdownIt("commonmark", {"html": True}).enable("table").render(f"Before {line} after.")
    assert html.unescape(re.fullmatch(r"<p>(.*)</p>\n", seen, flags=re.DOTALL)[1]) == f"Before {shown(text)} after."
    alone = MarkdownIt("commonmark", {"html": True}).enable("table").render(f"# {line}\n\n[{line}](/a)\n\n- {line} x\n")
    assert set(re.findall(r"<(/?\w+)", alone)) <= {"h1", "/h1", "p", "/p", "a", "/a", "ul", "/ul", "li", "/li"}
    cells = MarkdownIt("commonmark", {"html": True}).enable("table").render(table(["a", "b"], [[line, "c"]]))
    assert len(re.findall("<td", cells)) == 2
    assert set(re.findall(r"<(\w+)", cells)) == {"table", "thead", "tr", "th", "tbody", "td"}


@pytest.mark.parametrize("text", NASTY)
def test_what_means_something_to_markdown_is_shown_as_it_stands(text):
    check_words(text)
    assert kinds_of(f"Before {words(text)} after.") == set()
    assert kinds_of(words(text)) == set()


def test_the_parser_of_the_book_sees_what_is_not_made_harmless():
    assert sum(kinds_of(text) != set() for text in NASTY) > 15


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_shown_as_it_stands(text):
    check_words(text)


@given(st.text(alphabet=st.sampled_from("`~ \n\tab{}<>:\\"), max_size=60))
@settings(max_examples=200, deadline=None)
def test_a_block_ends_where_its_text_does(text):
    from markdown_it import MarkdownIt

    seen = MarkdownIt("commonmark", {"html": True}).render(f"Before.\n\n{block(text)}\n\nAfter.")
    around = '<p>Before.</p>\n<pre><code class="language-text">(.*)</code></pre>\n<p>After.</p>\n'
    match = re.fullmatch(around, seen, re.DOTALL)
    assert match
    assert html.unescape(match[1]).splitlines() == text.splitlines()


def test_tables_set_numbers_to_the_right():
    assert table(["a", "n"], [["x", 1], ["y", 2.5]], right=["n"]).splitlines() == [
        "| a | n |", "| --- | ---: |", "| x | 1 |", "| y | 2.5 |",
    ]  # fmt: skip
