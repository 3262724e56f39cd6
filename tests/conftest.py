"""Fixtures that several tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import chromium
from templates import SUBJECT

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


#: Begun first under pytest -n, because they take longest.
FIRST = ("test_study_runs", "test_hostile_study", "test_fuzz", "test_class", "test_multiscale")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under pytest -n a file's tests run in one process, which makes its fixtures once; the long files begin first."""

    def rank(item: pytest.Item) -> int:
        return FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST)

    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=rank)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, one a process; tests that use it are skipped where there is none."""
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real subjects and reference maps beside the checkout; a user does not have them."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared beside the checkout: real data and reference maps are not part of the project")
    return SHARED


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A book with one template and no chapter, in which a test may edit what it likes."""
    root = tmp_path / "project"
    (root / "book").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (root / "notebooks" / "subject.md").write_text(SUBJECT)
    (root / "book" / "intro.md").write_text("# Intro\n\n<!-- study tables -->\n")
    (root / "_config.yml").write_text("title: t\n")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nparts:\n  - caption: A\n    chapters:\n      - file: notebooks/one\n"
        "  - caption: Z\n    chapters:\n      - file: book/last\n"
    )
    monkeypatch.chdir(root)
    return root
