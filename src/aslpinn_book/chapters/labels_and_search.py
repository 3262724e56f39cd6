"""Sphinx: labels of the bibliography as in the text, "Buxton et al., 1998", and a search that takes questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pybtex.plugin import register_plugin
from pybtex.richtext import Text
from pybtex.style.formatting.unsrt import Style as Unsorted
from pybtex.style.labels import BaseLabelStyle
from sphinx.search.en import SearchEnglish


class AuthorYearLabels(BaseLabelStyle):
    """Authors, as citations shorten them, and the year; a letter follows where two works would have the same label."""

    def format_labels(self, sorted_entries: list[Any]) -> Iterator[str]:
        """A label for each entry."""
        labels = [label(entry) for entry in sorted_entries]
        several, met = Counter(labels), Counter[str]()
        for found in labels:
            yield f"{found}{chr(ord('a') + met[found])}" if several[found] > 1 else found
            met[found] += 1


class AuthorYear(Unsorted):
    """Entries as in the style unsrt, sorted by author and year."""

    default_label_style = AuthorYearLabels
    default_sorting_style = "author_year_title"


def label(entry: Any) -> str:
    """Authors and year of a work."""
    people = entry.persons.get("author") or entry.persons.get("editor") or []
    names = [str(Text.from_latex(" ".join([*person.prelast_names, *person.last_names]))) for person in people]
    shown = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
    return ", ".join(part for part in (shown or entry.key, entry.fields.get("year", "")) if part)


class AskedInEnglish(SearchEnglish):
    """Sphinx's search, which wants every word on the page, without the words that only make a question."""

    stopwords = SearchEnglish.stopwords | {
        *("can", "do", "does", "how", "i", "me", "my", "should"),
        *("what", "when", "where", "which", "who", "why", "you", "your"),
    }


def setup(app: Any) -> dict[str, Any]:
    """Register the style that _config.yml names, and the search."""
    register_plugin("pybtex.style.formatting", "author_year", AuthorYear)
    app.add_search_language(AskedInEnglish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
