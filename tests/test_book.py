"""The built book: no warning, no remote load, no traceback; in a browser, mathematics and figures on every chapter."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from urllib.parse import unquote, urlsplit

import pytest

from aslpinn.cli import main
from aslpinn.report.site import chapters_of

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = [f"notebooks/{name}.html" for name in chapters_of(ROOT)]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def site() -> Path:
    """The book in its short settings, made by the runner; nothing is run again where nothing changed."""
    out = ROOT / "build" / "test-book"
    assert main(["study", "--virtual", "--fast", "--out", str(out)]) == 0
    return out / "site"


class Links(HTMLParser):
    """Addresses that a page loads by itself (script, stylesheet, image, frame) and those that it links to."""

    LOADED: ClassVar = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
    PASSIVE: ClassVar = {"canonical", "next", "prev", "search", "index", "author", "license"}

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.ids: set[str] = set()
        self.images_without_text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.ids.add(values["id"])
        name = self.LOADED.get(tag)
        if name in values and not (tag == "link" and values.get("rel", "") in self.PASSIVE):
            self.loaded.append(values[name])
        if tag == "a" and "href" in values:
            self.linked.append(values["href"])
        if tag == "img" and not values.get("alt"):
            self.images_without_text.append(values.get("src", ""))


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
        assert str(ROOT) not in text, page.name


def test_times_and_versions_come_from_the_run(site):
    import torch

    text = (site / "book" / "reproducibility.html").read_text()
    assert torch.__version__ in text
    assert "sub-virtual02" in text


def test_nothing_is_run_again_where_nothing_changed(site, capsys):
    before = (site / "index.html").stat().st_mtime_ns
    assert main(["study", "--virtual", "--fast", "--out", str(site.parent)]) == 0
    said = capsys.readouterr().out
    assert "done in" not in said
    assert "the book is up to date" in said
    assert (site / "index.html").stat().st_mtime_ns == before


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """The book served on the loopback interface, as Pages would serve it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """No line a request."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    program = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if program is None:
        pytest.skip("no Chromium on this machine: the pages are not opened in a browser")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield opened
        opened.close()


@pytest.mark.parametrize("name", [*CHAPTERS, "subjects/sub-virtual01.html", "index.html", "book/notation.html"])
def test_a_browser_shows_mathematics_and_figures_without_an_error(browser, address, name):
    context = browser.new_context()
    context.set_default_timeout(120_000)
    page = context.new_page()
    errors: list[str] = []
    outside: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith((address, "data:", "blob:")) else outside.append(request.url),
    )
    page.goto(f"{address}/{name}", wait_until="load")
    wants_mathematics = name in CHAPTERS or name == "book/notation.html"
    if wants_mathematics:
        page.wait_for_selector("article mjx-container", state="attached", timeout=120_000)
        page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
        page.evaluate("MathJax.startup.promise.then(() => true)")
        assert page.locator("article mjx-container mjx-math").count() > 0
        assert page.locator("article mjx-merror").count() == 0
    if name in CHAPTERS or name.startswith("subjects/"):
        widths = page.eval_on_selector_all("article img", "images => images.map(image => image.naturalWidth)")
        assert widths, f"{name} has no figure"
        assert min(widths) > 0, f"{name} has an image that does not load"
    context.close()
    assert not errors
    assert not outside
