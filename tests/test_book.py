"""The built book: no warning, no remote load, no traceback; in a browser each page once, in light, dark and narrow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote_plus, unquote, urlsplit

import pytest
from browsing import axe_script, complaints, move_every_control, violations, without_tags
from mirror import make, serving

from aslpinn_book.study.site import chapters_of

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = [f"notebooks/{name}.html" for name in chapters_of(ROOT)]
MOVING = {
    "notebooks/kinetics.html": "buxton",
    "notebooks/time-encoding.html": "hadamard",
    "notebooks/hash-encoding.html": "hash-grid",
    "notebooks/losses.html": "training",
    "subjects/sub-virtual01.html": "maps",
}
NARROW = 380
SHARED_MB = 15
pytestmark = [pytest.mark.slow, pytest.mark.book]


OUT = ROOT / "build" / "test-book"
MIRROR = ROOT.parent / "shared" / "data" / "fetch" / "mirror"
#: Pages of the people of the public data sets.
REAL = ("subjects/oxford-mpld_sub-01.html", "subjects/asltk-tepcasl_sub-01.html")


@pytest.fixture(scope="session")
def build() -> Iterator[Callable[[], str]]:
    """Makes the book in its short settings and returns what make prints; nothing is run again where nothing changed.

    Where ../shared has a mirror of the public data sets, it is the book that is published: these are fetched first.
    """
    if not MIRROR.is_dir():
        yield lambda: make("book", "FAST=1", f"OUT={OUT}")
        return
    with serving(MIRROR) as server:
        yield lambda: make("book", "REAL=1", "FAST=1", f"OUT={OUT}", f"DATA={OUT / 'data'}", f"FROM={server.url}")


@pytest.fixture(scope="session")
def site(build) -> Path:
    build()
    return OUT / "site"


class Links(HTMLParser):
    """Addresses that a page loads by itself (script, stylesheet, image, frame) and those that it links to."""

    LOADED: ClassVar = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
    PASSIVE: ClassVar = {"canonical", "next", "prev", "search", "index", "author", "license"}

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.ids: set[str] = set()
        self.images: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.ids.add(values["id"])
        name = self.LOADED.get(tag)
        if name in values and not (tag == "link" and values.get("rel", "") in self.PASSIVE):
            self.loaded.append(values[name])
        if tag == "a" and "href" in values:
            self.linked.append(values["href"])
        if tag == "img":
            self.images.append((values.get("src", ""), values.get("alt", "")))


def read(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text(encoding="utf-8"))
    return links


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Links]:
    return {page.resolve(): read(page) for page in site.rglob("*.html") if "_static" not in page.parts}


def test_every_chapter_and_subject_has_a_page(site, pages):
    names = {page.relative_to(site.resolve()).as_posix() for page in pages}
    expected = {*CHAPTERS, "index.html", "book/intro.html", "book/notation.html", "book/references.html"}
    expected |= {"book/reproducibility.html", "subjects/index.html", "subjects/sub-virtual01.html"}
    assert expected <= names
    log = (site.parent / "logs" / "site.log").read_text()
    assert "WARNING" not in log
    assert "ERROR" not in log


def test_nothing_loads_from_outside(site, pages):
    for page, links in pages.items():
        for address in links.loaded:
            assert not urlsplit(address).netloc, f"{page.relative_to(site.resolve())} loads {address}"
            assert address.startswith("data:") or urlsplit(address).scheme == "", f"{page}: {address}"
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8", errors="replace")
        assert not re.search(r"@import\s+(url\()?['\"]?https?:|url\(['\"]?(https?:)?//", text), style


def test_internal_links_and_images_resolve(pages):
    for page, links in pages.items():
        if page.name in ("genindex.html", "search.html"):
            continue
        for address in [*links.loaded, *links.linked]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.exists(), f"{page.name} points to {address}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{page.name} points to {address}"


def test_no_traceback_and_no_path_of_the_machine(site, pages):
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "Traceback (most recent call last)" not in text, page.name
        assert "IPython.core.display" not in text, f"{page.name} shows an object instead of what it says"
        assert "UserWarning" not in text, f"{page.name} shows a warning to its readers"
        assert str(ROOT) not in text, page.name


def test_the_published_book_has_real_brains(site, pages, shared):
    chapter = without_tags((site / "notebooks" / "in-vivo.html").read_text(encoding="utf-8"))
    assert "oxford-mpld" in chapter
    told = json.loads((OUT / "study.json").read_text(encoding="utf-8"))["subjects"]
    for name in REAL:
        links = pages[(site / name).resolve()]
        assert sum("_images/" in source for source, _ in links.images) >= 5, f"{name} has no maps"
        assert told[Path(name).stem]["state"] == "done", f"{name} says why the fit failed"
    index = (site / "subjects" / "index.html").read_text(encoding="utf-8")
    assert all(name.removeprefix("subjects/") in index for name in REAL)


def test_times_and_versions_come_from_the_run(site):
    import torch

    text = (site / "book" / "reproducibility.html").read_text()
    assert torch.__version__ in text
    assert "sub-virtual02" in text


def test_nothing_is_run_again_where_nothing_changed(site, build):
    before = (site / "index.html").stat().st_mtime_ns
    said = build()
    assert "done in" not in said
    assert "the book is up to date" in said
    assert (site / "index.html").stat().st_mtime_ns == before


def test_labels_of_the_bibliography_are_those_of_the_citations(site, pages):
    listed = (site / "book" / "references.html").read_text(encoding="utf-8")
    entries = re.findall(
        r'<div class="citation" id="([^"]+)".*?<span class="label">(.*?)</span>(?=\n|<p|\s*<p)', listed, re.DOTALL
    )
    labels = {name: without_tags(text).strip("[]") for name, text in entries}
    assert len(labels) > 40
    assert len(set(labels.values())) == len(labels)
    cited = 0
    for page in pages:
        for name, text in re.findall(
            r'<a class="reference internal" href="[^"]*?#(id\d+)" title="[^"]*">(.*?)</a>', page.read_text()
        ):
            told = without_tags(text).replace("\xa0", " ")
            if name in labels and not told.isdigit():  # the year alone follows a name in the sentence
                cited += 1
                assert re.sub(r"[a-z]$", "", labels[name]) == told, page.name
    assert cited > 50


#: What readers ask, and the pages of which the first result has to be one.
QUESTIONS = {
    "how do I write the loss": {"book/guides.html", "notebooks/pinn-from-nothing.html", "notebooks/losses.html"},
    "how do I fit my Siemens data": {"book/guides.html", "notebooks/own-data.html"},
    "what does a quality flag on my map mean": {"book/guides.html"},
    "how do I re-run one subject with papermill": {"book/guides.html", "notebooks/own-data.html"},
    "what is wrong with my mask": {"book/guides.html"},
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_search_answers_what_readers_ask(browser, address, question):
    page = browser.new_page()
    page.goto(f"{address}/search.html?q={quote_plus(question)}")
    page.wait_for_selector("#search-results li a", timeout=60_000)
    first = urlsplit(page.locator("#search-results li a").first.get_attribute("href")).path.removeprefix("/")
    page.close()
    assert first in QUESTIONS[question]


def test_cards_and_a_run_button_only_where_a_repository_is_known(site):
    from aslpinn_book.study.launch_buttons import repository

    first, chapter = ((site / name).read_text() for name in ("book/intro.html", CHAPTERS[0]))
    known = repository(ROOT) is not None
    assert ("mybinder.org/v2/gh/" in first) == known
    assert ('property="og:title"' in chapter) == known
    assert "pinn-from-nothing" in first


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """The book served on the loopback interface, as Pages would serve it."""
    with serving(site) as server:
        yield server.url


def test_there_is_enough_to_read_and_every_figure_has_alternative_text(site, pages):
    figures = 0
    for page, links in pages.items():
        for source, text in links.images:
            if "_images/" in source:  # the logo stands beside its own words
                figures += 1
                assert len(text) > 15, f"{page.name}: {source} has no alternative text"
                assert "_images/" not in text, f"{page.name}: the alternative text of {source} is its name"
    assert len(pages) >= 14
    assert figures >= 30


def test_shared_files_stay_small(site):
    shared = sum(path.stat().st_size for path in (site / "_static").rglob("*") if path.is_file()) / 1e6
    assert shared < SHARED_MB, f"_static has {shared:.1f} MB"


@dataclass
class Visit:
    """What was found on one page."""

    errors: list[str]
    outside: list[str] = field(default_factory=list)
    formulas: int = 0
    wrong_formulas: int = 0
    image_widths: list[int] = field(default_factory=list)
    moving: dict[str, str] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)
    light: list[str] = field(default_factory=list)
    dark: list[str] = field(default_factory=list)
    overflow: list[str] = field(default_factory=list)


OVERFLOW = """(width) => document.documentElement.scrollWidth <= width ? [] :
    [`${document.documentElement.scrollWidth} px`, ...[...document.querySelectorAll("main *")]
        .filter((node) => node.getBoundingClientRect().right > width + 1).slice(0, 5)
        .map((node) => `${node.tagName}.${node.className}`)]"""


def look_at(page: Any, address: str, name: str) -> Visit:
    """Open a page of the book once and look at it in light and dark, wide and narrow."""
    page.set_viewport_size({"width": 1300, "height": 900})
    page.emulate_media(color_scheme="light")
    visit = Visit(errors=complaints(page))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((address, "data:", "blob:")) else visit.outside.append(request.url)
        ),
    )
    page.goto(f"{address}/{name}", wait_until="load")
    if page.locator("article .math").count():
        page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
        page.evaluate("MathJax.startup.promise.then(() => true)")
        visit.formulas = page.locator("article mjx-container mjx-math").count()
        visit.wrong_formulas = page.locator("article mjx-merror").count()
    visit.image_widths = page.eval_on_selector_all("article img", "images => images.map(image => image.naturalWidth)")
    for kind in dict.fromkeys(
        page.eval_on_selector_all("[data-widget]", "all => all.map((one) => one.dataset.widget)")
    ):
        root = f'[data-widget="{kind}"]'
        page.locator(root).first.scroll_into_view_if_needed()
        page.wait_for_function(
            "(root) => !['', 'starting'].includes(document.querySelector(root).dataset.ready || '')"
            " && document.querySelector(root).dataset.ready !== 'loading'",
            arg=root,
        )
        visit.moving[kind] = page.locator(root).first.get_attribute("data-ready")
        visit.idle += [f"{kind}: {control}" for control in move_every_control(page, root)]
    page.add_script_tag(path=axe_script())
    code = name == CHAPTERS[0]  # the colors of source code are the same everywhere
    visit.light = violations(page, code=code)
    page.add_style_tag(
        content="*, ::before, ::after { transition: none !important; }"
    )  # no color on its way to another
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    page.wait_for_timeout(100)
    visit.dark = violations(page, ("color-contrast",), code=code)
    page.set_viewport_size({"width": NARROW, "height": 800})
    page.wait_for_timeout(100)
    visit.overflow = page.evaluate(OVERFLOW, NARROW)
    return visit


@pytest.fixture(scope="session")
def visits(browser, address, site, pages) -> dict[str, Visit]:
    """Every page of the book, visited once."""
    context = browser.new_context()
    context.set_default_timeout(60_000)
    found = {}
    for path in sorted(pages):
        if 'http-equiv="refresh"' in path.read_text(encoding="utf-8").lower():
            continue  # it leads to another page, which is visited itself
        name = path.relative_to(site.resolve()).as_posix()
        if name.startswith("_modules/"):
            continue  # sources and their list, as Sphinx makes them: their colors are those of the chapters' code
        page = context.new_page()
        found[name] = look_at(page, address, name)
        page.close()
    context.close()
    return found


def told(found: dict[str, list[str]]) -> str:
    """Findings by page as lines."""
    return "\n".join(f"{name}: {line}" for name, lines in found.items() for line in lines)


def test_no_page_reports_an_error_or_asks_for_anything_outside(visits):
    wrong = told({name: visit.errors + visit.outside for name, visit in visits.items()})
    assert not wrong, wrong


def test_mathematics_and_figures_are_shown(visits):
    for name in [*CHAPTERS, "book/notation.html"]:
        assert visits[name].formulas > 0, name
    for name, visit in visits.items():
        assert visit.wrong_formulas == 0, name
        if name in CHAPTERS or name.startswith("subjects/sub-"):
            assert visit.image_widths, f"{name} has no figure"
        assert min(visit.image_widths, default=1) > 0, f"{name} has an image that does not load"


def test_every_moving_figure_moves(visits):
    for name, kind in MOVING.items():
        assert kind in visits[name].moving, f"{name} has no {kind}"
    states = {name: visit.moving for name, visit in visits.items() if set(visit.moving.values()) - {"yes"}}
    assert not states
    idle = told({name: visit.idle for name, visit in visits.items()})
    assert not idle, idle


def test_no_page_has_a_serious_accessibility_violation(visits):
    wrong = told({name: visit.light for name, visit in visits.items()})
    assert not wrong, wrong


def test_everything_is_readable_in_the_dark(visits):
    wrong = told({name: visit.dark for name, visit in visits.items()})
    assert not wrong, wrong


def test_a_narrow_screen_does_not_scroll_sideways(visits):
    wrong = told({name: visit.overflow for name, visit in visits.items()})
    assert not wrong, wrong


def test_the_search_finds_the_transit_time(browser, address):
    page = browser.new_page()
    page.goto(f"{address}/search.html?q=transit+time")
    page.wait_for_selector("#search-results li a", timeout=60_000)
    found = page.locator("#search-results li a").all_inner_texts()
    page.close()
    assert len(found) >= 3


def test_the_exact_maps_can_be_taken_from_a_subjects_page(site):
    from nibabel import load

    files = sorted((site / "maps" / "sub-virtual01").rglob("*_cbf.nii.gz"))
    assert files
    original = site.parent / "derivatives" / "aslpinn"
    assert files[0].read_bytes() == next(original.rglob(files[0].name)).read_bytes()
    assert load(files[0]).ndim == 3
