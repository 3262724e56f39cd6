"""A headless Chromium for tests, WebGL by software."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
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


#: The accessibility rules that pages are held to, from npm, and npm's own checksum of the package.
AXE = "axe-core@4.14.1"
AXE_INTEGRITY = "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
_AXE_FILE = Path(__file__).resolve().parents[1] / "build" / "axe" / f"{AXE}.min.js"


def axe_script() -> Path:
    """axe-core, fetched by npm once and kept in build/axe; the test is skipped where it cannot be had."""
    if _AXE_FILE.is_file():
        return _AXE_FILE
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on this machine: axe-core, which checks accessibility, cannot be fetched")
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run([npm, "pack", AXE], cwd=folder, capture_output=True, text=True, timeout=120)
        archives = list(Path(folder).glob("*.tgz"))
        if packed.returncode != 0 or not archives:
            pytest.skip(f"npm could not fetch {AXE}, which checks accessibility: {packed.stderr.strip()[-200:]}")
        found = "sha512-" + base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode()
        assert found == AXE_INTEGRITY, f"{AXE} is not what it was: {found}"
        with tarfile.open(archives[0]) as archive:
            source = archive.extractfile("package/axe.min.js")
            assert source is not None
            _AXE_FILE.parent.mkdir(parents=True, exist_ok=True)
            _AXE_FILE.write_bytes(source.read())
    return _AXE_FILE


def violations(page: Any, rules: tuple[str, ...] = (), code: bool = True) -> list[str]:
    """Serious and critical violations that axe-core finds on a page (it must have been added), one line each.

    rules: only these; all by default. code: source code too, which takes long. Mathematics is left to MathJax, which
    says its formulas in words of its own.
    """
    options = {"resultTypes": ["violations"], "runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
    found = page.evaluate(
        """([options, exclude]) => axe.run({ exclude }, options).then((result) => result.violations
            .filter((rule) => ["serious", "critical"].includes(rule.impact))
            .flatMap((rule) => rule.nodes.slice(0, 3).map((node) => `${rule.id}: ${node.target.join(" ")} `
                + node.failureSummary.split("\\n").slice(1).join("; ").trim())))""",
        [options, ["mjx-container", *([] if code else ["pre"])]],
    )
    return [str(line) for line in found]


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
        if not control.is_visible() or control.evaluate("(node) => node.tagName === 'SELECT' && node.length < 2"):
            continue  # a choice of one moves nothing
        before = drawing(page, root)
        control.focus()
        page.keyboard.press(control.evaluate(_KEY))
        try:
            page.wait_for_function(
                "([root, before]) => window.drawn(root) !== before", arg=[root, before], timeout=15_000
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


def without_tags(text: str) -> str:
    """What a reader sees of HTML."""
    return unescape(re.sub(r"<[^>]+>", "", text))
