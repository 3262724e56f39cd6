"""What every figure of the book keeps to: sharp at any magnification, readable on its page, ranges from the data."""

from __future__ import annotations

import base64
import re
from io import BytesIO

import numpy as np
import pytest

from aslpinn.maps.style import PAGE_WIDTH, QUANTITIES, SMALLEST, styled, subplots


@styled
def drawn(width=12.0):
    """A wide figure with a small label and a map of 5 x 4 voxels."""
    figure, axes = subplots(figsize=(width, 3.0))
    axes.imshow(np.arange(20.0).reshape(4, 5))
    axes.text(1, 1, "small", fontsize=4)
    return figure


def test_a_map_is_stored_voxel_by_voxel():
    from PIL import Image

    text = drawn()._repr_svg_()
    (content,) = re.findall(r"base64,\s*([^\"]+)\"", text)
    assert Image.open(BytesIO(base64.b64decode(content))).size == (5, 4)
    assert "image-rendering:pixelated" in text.replace(" ", "")
    assert text == drawn()._repr_svg_(), "the same bytes on every run"


@pytest.mark.parametrize("width", [4.0, 12.0])
def test_no_label_is_shown_smaller_than_it_can_be_read(width):
    figure = drawn(width)
    figure._repr_svg_()
    shrunk = min(1.0, PAGE_WIDTH / (96 * width))
    sizes = [shrunk * text.get_fontsize() / 0.75 for text in figure.axes[0].texts + figure.axes[0].get_xticklabels()]
    assert min(sizes) >= SMALLEST - 1e-6


def test_a_notebook_is_given_the_svg_only(monkeypatch):
    import IPython.display

    told = []
    monkeypatch.setattr(IPython.display, "publish_display_data", told.append)
    drawn()._ipython_display_()
    assert [sorted(entry) for entry in told] == [["image/svg+xml", "text/plain"]]


def test_open_ranges_come_from_the_map():
    values = np.linspace(0, 100, 1001)
    assert QUANTITIES["deltam"].limits(values) == pytest.approx((0, 99))
    assert QUANTITIES["cbf_sd"].limits(values, [np.nan]) == pytest.approx((0, 95))
    assert QUANTITIES["cbf"].limits(values) == (0, 80)
    assert QUANTITIES["att_sd"].ranged(values).high == pytest.approx(95)
