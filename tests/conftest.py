"""Fixtures that several tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import chromium

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


#: Files whose slow tests share no fixture: each of those tests goes to whichever process is free.
APART = ("test_cluster", "test_group", "test_study")
#: Begun first, because they take longest.
FIRST = ("book", "test_fuzz", "test_benchmark", "test_variational")


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the groups when it collects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under pytest -n: a file's tests run in one process, which makes its fixtures once; the long ones begin first."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            name = "book" if item.path.stem == "test_book" else item.path.stem
            alone = name in APART and item.get_closest_marker("slow") is not None
            item.add_marker(pytest.mark.xdist_group(item.name if alone else name))

    def rank(item: pytest.Item) -> int:
        marker = item.get_closest_marker("xdist_group")
        group = str(marker.args[0]) if marker else ""
        if group in FIRST:
            return FIRST.index(group)
        return len(FIRST) if item.get_closest_marker("slow") is not None and item.path.stem in APART else len(FIRST) + 1

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
