"""A headless Chromium for tests, WebGL by software."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]


@contextmanager
def chromium() -> Iterator[Any]:
    """A started browser; the test is skipped where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium on this machine: the pages are not opened in a browser")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield opened
        opened.close()


def complaints(page: Any) -> list[str]:
    """A list that fills with what goes wrong on a page from now on."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def move_every_control(page: Any, root: str) -> list[str]:
    """Move every control in the element that a selector finds by the keyboard; those that changed nothing drawn."""
    idle = []
    controls = page.locator(f"{root} :is(input, select)")
    for place in range(controls.count()):
        control = controls.nth(place)
        if not control.is_visible():
            continue
        before = drawing(page, root)
        control.focus()
        page.keyboard.press(control.evaluate(_KEY))
        try:
            page.wait_for_function(
                "([root, before]) => window.drawn(root) !== before", arg=[root, before], timeout=4000
            )
        except Exception:  # playwright's TimeoutError, whose module may not be there
            idle.append(control.get_attribute("name") or str(place))
    return idle


def drawing(page: Any, root: str) -> str:
    """All that is drawn in an element, as one text: its SVG and tables, and what is said of its canvases."""
    page.evaluate(_DRAWN)
    return str(page.evaluate("root => window.drawn(root)", root))


#: The key that moves a control, whatever its value is.
_KEY = """(node) => node.tagName === "SELECT"
    ? (node.selectedIndex > 0 ? "ArrowUp" : "ArrowDown")
    : (node.value === node.max ? "ArrowLeft" : "ArrowRight")"""

_DRAWN = """() => {
    window.drawn = (root) => [...document.querySelector(root).querySelectorAll("svg, tbody, canvas[aria-label]")]
        .map((node) => node.tagName === "CANVAS" ? node.getAttribute("aria-label") : node.outerHTML).join();
}"""
