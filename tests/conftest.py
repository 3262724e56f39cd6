"""Fixtures that several tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real subjects and reference maps beside the checkout; a user does not have them."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared beside the checkout: real data and reference maps are not part of the project")
    return SHARED
